package service_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/canary"
	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/service"
	"github.com/cryptflow/cryptflow/go/task"
)

// notes is a log that several goroutines write to.
type notes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(b)
}

func (n *notes) count(what string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Count(n.b.String(), what)
}

// reaches waits until something stands n times in the log: the line may follow
// what the peer sees.
func (n *notes) reaches(what string, times int) bool {
	for end := time.Now().Add(10 * time.Second); n.count(what) < times; runtime.Gosched() {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func listening(t *testing.T, clients int) (*world, *notes) {
	t.Helper()
	h, err := service.OpenHouse(filepath.Join(t.TempDir(), "house"), service.Plan{Clients: clients, Floor: 3, Log: "info", Task: "t"})
	if err != nil {
		t.Fatal(err)
	}
	n := &notes{}
	w := &world{House: h, log: slog.New(slog.NewTextHandler(n, nil))}
	w.startKMS(t)
	w.startAggregator(t)
	t.Cleanup(func() { _ = w.aggregator.Close(); _ = w.kms.Close() })
	return w, n
}

// issue makes a certificate of the house's authority, or of a new one.
func (w *world) issue(t *testing.T, id identity.Identity, life time.Duration, now time.Time, own bool) config.Credentials {
	t.Helper()
	folder := filepath.Join(w.Folder, "ca")
	if own {
		folder = t.TempDir()
		if _, err := identity.NewAuthority(folder, id.Domain, 100*24*time.Hour, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := identity.OpenAuthority(folder)
	if err != nil {
		t.Fatal(err)
	}
	crt, key, err := ca.Issue(t.TempDir(), id, nil, life, now)
	if err != nil {
		t.Fatal(err)
	}
	return config.Credentials{Certificate: crt, Key: key, Authority: filepath.Join(w.Folder, "ca", identity.CACertificate)}
}

// raw dials with any certificate, as somebody does who does not use our code.
func raw(t *testing.T, address string, c config.Credentials) error {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", address, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}})
	if err != nil {
		return err
	}
	defer conn.Close()
	// In TLS 1.3 the server's refusal comes after the client's last message.
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 9))
	return err
}

func TestStrangersAreRefusedAndLogged(t *testing.T) {
	w, log := listening(t, 3)
	client0 := identity.Identity{Domain: "cryptflow.local", Role: identity.Client, Name: "client-0"}
	elsewhere := client0
	elsewhere.Domain = "other.example"
	for _, address := range []string{w.aggregator.Address, w.kms.Address} {
		for name, c := range map[string]config.Credentials{
			"another authority": w.issue(t, client0, time.Hour, time.Now(), true),
			"another domain":    w.issue(t, elsewhere, time.Hour, time.Now(), true),
			"expired":           w.issue(t, client0, time.Hour, time.Now().Add(-48*time.Hour), false),
			"not yet valid":     w.issue(t, client0, time.Hour, time.Now().Add(48*time.Hour), false),
		} {
			before := log.count("connection refused")
			if err := raw(t, address, c); err == nil {
				t.Errorf("%s was let in", name)
			}
			if !log.reaches("connection refused", before+1) {
				t.Errorf("%s left no line in the log", name)
			}
		}
		before := log.count("connection refused")
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		got, _ := conn.Read(make([]byte, 100))
		for got > 0 { // an alert, then the end
			got, _ = conn.Read(make([]byte, 100))
		}
		_ = conn.Close()
		if !log.reaches("connection refused", before+1) {
			t.Error("plain TCP left no line in the log")
		}
	}
	w.create(t, client.TaskRequest{Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{9}}}}, make([]float32, 9))
	w.client(t, 0) // both are alive
}

func TestRolesAreRefusedByMethod(t *testing.T) {
	w, log := listening(t, 3)
	w.create(t, client.TaskRequest{Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{9}}}}, make([]float32, 9))
	as := func(profile string, c *config.Credentials) (pb.AggregatorServiceClient, pb.KeyServiceClient) {
		t.Helper()
		p, err := config.LoadProfile(profile)
		if err != nil {
			t.Fatal(err)
		}
		if c == nil {
			c = &p.Credentials
		}
		creds, err := c.Load(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		dial := func(address string, role identity.Role) *grpc.ClientConn {
			conn, err := rpc.Dial(address, creds, role, false)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		return pb.NewAggregatorServiceClient(dial(p.Aggregator, identity.Aggregator)), pb.NewKeyServiceClient(dial(p.KMS, identity.KMS))
	}
	denied := func(what string, err error, code error) {
		t.Helper()
		if err := rpc.FromStatus(err, "service"); !errors.Is(err, code) {
			t.Errorf("%s: %v", what, err)
		}
	}
	rounds, keys := as(w.Clients[0], nil)
	_, err := rounds.ListTasks(t.Context(), &pb.Empty{})
	denied("a client listing tasks", err, errs.ErrDenied)
	_, err = keys.OpenRound(t.Context(), &pb.OpenRequest{Task: "t"})
	denied("a client opening a round", err, errs.ErrDenied)
	_, err = keys.Decide(t.Context(), &pb.DecideRequest{})
	denied("a client asking for a release", err, errs.ErrDenied)
	sum := w.issue(t, identity.Identity{Domain: "cryptflow.local", Role: identity.Aggregator, Name: "aggregator"}, time.Hour, time.Now(), false)
	_, keys = as(w.Admin, &sum)
	_, err = keys.FetchRelease(t.Context(), &pb.ReleaseRequest{Spec: make([]byte, 32)})
	denied("an aggregator fetching a release", err, errs.ErrDenied)
	_, err = keys.Deposit(t.Context(), &pb.DepositRequest{})
	denied("an aggregator depositing", err, errs.ErrDenied)
	stranger := w.issue(t, identity.Identity{Domain: "cryptflow.local", Role: identity.Client, Name: "stranger"}, time.Hour, time.Now(), false)
	rounds, keys = as(w.Admin, &stranger)
	_, err = keys.GetTask(t.Context(), &pb.TaskName{Name: "t"})
	denied("a client that is not enrolled", err, errs.ErrNotEnrolled)
	_, err = rounds.AwaitRound(t.Context(), &pb.AwaitRequest{Task: "t", Seconds: 1})
	denied("a client that is not enrolled", err, errs.ErrNotEnrolled)
	if !log.reaches("CF_DENIED", 5) {
		t.Error("refusals are missing in the log")
	}
	// A service of another role is not taken for the one that was called.
	p, err := config.LoadProfile(w.Clients[0])
	if err != nil {
		t.Fatal(err)
	}
	p.KMS = p.Aggregator
	if _, err := client.Dial(t.Context(), p, "", 1); !errors.Is(err, errs.ErrCertificate) {
		t.Errorf("an aggregator in the key service's place: %v", err)
	}
}

// forger makes frames with our own code and sends what it likes.
type forger struct {
	t      *testing.T
	x      *client.Client
	conn   *grpc.ClientConn
	rounds pb.AggregatorServiceClient
	keys   pb.KeyServiceClient
	round  *client.Round
	name   string
	sealed seal.Round
	frames [][]byte
	root   merkle.Hash
}

func (w *world) forger(t *testing.T, i int) *forger {
	t.Helper()
	f := &forger{t: t, x: w.client(t, i), name: service.ClientName(i)}
	p, err := config.LoadProfile(w.Clients[i])
	if err != nil {
		t.Fatal(err)
	}
	creds, err := p.Credentials.Load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if f.conn, err = rpc.Dial(p.Aggregator, creds, identity.Aggregator, false); err != nil {
		t.Fatal(err)
	}
	kms, err := rpc.Dial(p.KMS, creds, identity.KMS, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.conn.Close(); _ = kms.Close() })
	f.rounds, f.keys = pb.NewAggregatorServiceClient(f.conn), pb.NewKeyServiceClient(kms)
	if f.round, err = f.x.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	scheme, err := f.x.Task().Scheme()
	if err != nil {
		t.Fatal(err)
	}
	f.sealed = seal.Round{Scheme: scheme, SpecDigest: f.round.Digest, Metrics: f.x.Task().Metrics, WeightCap: f.x.Task().WeightCap, Canaries: int(f.x.Task().Canaries)}
	for _, l := range f.x.Task().Layout {
		f.sealed.Tensors = append(f.sealed.Tensors, seal.Tensor{Name: l.Name, Count: l.Count(), Range: l.Range})
	}
	f.frames, f.root = f.seal(f.sealed)
	return f
}

func (f *forger) seal(r seal.Round) (frames [][]byte, root merkle.Hash) {
	f.t.Helper()
	secrets, err := seal.NewSecrets()
	if err != nil {
		f.t.Fatal(err)
	}
	s, err := seal.NewSealer(r, secrets, make([]float32, r.Values()), 1, 1)
	if err != nil {
		f.t.Fatal(err)
	}
	var tree merkle.Tree
	if err := s.Seal(f.t.Context(), 0, s.Frames(), func(_ int, b []byte) error {
		frames = append(frames, bytes.Clone(b))
		tree.Append(merkle.Leaf(b))
		return nil
	}); err != nil {
		f.t.Fatal(err)
	}
	own, _ := s.Canary()
	return frames, canary.Root(tree, own)
}

func (f *forger) begin(fresh bool) *pb.UploadInfo {
	f.t.Helper()
	u, err := f.rounds.BeginUpload(f.t.Context(), &pb.BeginRequest{Spec: f.round.Digest[:], Fresh: fresh})
	if err != nil {
		f.t.Fatal(err)
	}
	return u
}

func (f *forger) put(upload string, first int, frames ...[]byte) error {
	return rpc.FromStatus(arrowio.PutFrames(f.t.Context(), f.conn, upload, first, func(emit func(int, []byte) error) error {
		for i, b := range frames {
			if err := emit(first+i, b); err != nil {
				return err
			}
		}
		return nil
	}, 1, func(int) {}), "aggregator")
}

func (f *forger) deposit(root merkle.Hash) *pb.Signed {
	f.t.Helper()
	d := &task.Deposit{Spec: f.round.Digest, Client: f.name, ModelDigest: f.round.Spec.ModelDigest, Root: root}
	sealed, err := envelope.Seal(f.round.Spec.HPKE, envelope.Deposit, d.Canonical(), make([]byte, 32))
	if err != nil {
		f.t.Fatal(err)
	}
	reply, err := envelope.NewKey()
	if err != nil {
		f.t.Fatal(err)
	}
	receipt, err := f.keys.Deposit(f.t.Context(), &pb.DepositRequest{Deposit: d.Canonical(), Sealed: sealed, ReplyKey: reply.Public()})
	if err != nil {
		f.t.Fatal(err)
	}
	return receipt
}

func (f *forger) commit(upload string, root merkle.Hash, weight uint32, deposit *pb.Signed) ([]byte, error) {
	r, err := f.rounds.Commit(f.t.Context(), &pb.CommitRequest{Upload: upload, Spec: f.round.Digest[:], Root: root[:], Weight: weight, Deposit: deposit})
	return r.GetSignature(), rpc.FromStatus(err, "aggregator")
}

func hostileTask(t *testing.T, w *world) {
	t.Helper()
	w.create(t, client.TaskRequest{Preset: "n4096-q102", WeightCap: 50, Rounds: 1, Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{30_000}}, {Name: "b", Shape: []uint64{20_000}}}}, make([]float32, 50_000))
}

func TestHostileFramesAreRefused(t *testing.T) {
	w, _ := listening(t, 3)
	hostileTask(t, w)
	f := w.forger(t, 0)
	good := f.frames[0]
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	other := f.sealed
	other.SpecDigest[0] ^= 1
	foreign, _ := f.seal(other)
	for _, x := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"cut", good[:len(good)-1], errs.ErrFrame},
		{"header only", good[:frame.HeaderSize], errs.ErrFrame},
		{"extended", append(bytes.Clone(good), 0), errs.ErrFrame},
		{"a residue beyond q", change(frame.HeaderSize, bytes.Repeat([]byte{0xff}, 7)...), errs.ErrFrame},
		{"another magic", change(0, 'X'), errs.ErrFrame},
		{"another version", change(4, 9), errs.ErrFrame},
		{"another preset", change(5, good[5]%3+1), errs.ErrFrameContext},
		{"another key id", foreign[0], errs.ErrFrameContext},
		{"another chunk", f.frames[1], errs.ErrFrameContext},
		{"the control chunk first", f.frames[len(f.frames)-1], errs.ErrFrameContext},
		{"many terms", change(28, 255, 255, 255, 255), errs.ErrFrameContext},
		{"plaintext", make([]byte, len(good)), errs.ErrFrame},
		{"one byte", []byte{1}, errs.ErrFrame},
	} {
		t.Run(x.name, func(t *testing.T) {
			u := f.begin(true)
			if err := f.put(u.Upload, 0, x.frame); !errors.Is(err, x.want) && !errors.Is(err, errs.ErrFrame) && !errors.Is(err, errs.ErrFrameContext) {
				t.Fatalf("%v, want %v", err, x.want)
			}
			if u := f.begin(false); u.Next != 0 {
				t.Fatalf("%d frames were taken", u.Next)
			}
		})
	}
	u := f.begin(true)
	steps := []struct {
		name  string
		first int
		frame []byte
		want  error
	}{
		{"a frame skipped", 1, f.frames[1], errs.ErrChunkOrder},
		{"the first", 0, f.frames[0], nil},
		{"the same again", 0, f.frames[0], nil},
		{"the same place, other bytes", 0, foreign[0], errs.ErrFrameContext},
		{"beyond the end", len(f.frames), f.frames[0], errs.ErrChunkOrder},
	}
	for _, x := range steps {
		if err := f.put(u.Upload, x.first, x.frame); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
		}
	}
	twin, _ := f.seal(f.sealed)
	if err := f.put(u.Upload, 0, twin[0]); !errors.Is(err, errs.ErrChunkConflict) {
		t.Errorf("the same chunk with other bytes: %v", err)
	}
	if u := f.begin(false); u.Next != 1 {
		t.Errorf("%d frames are there after one", u.Next)
	}
	thief := w.forger(t, 1)
	if err := thief.put(u.Upload, 1, f.frames[1]); !errors.Is(err, errs.ErrUpload) {
		t.Errorf("another client's upload: %v", err)
	}
	if err := f.put("no-such-upload", 0, f.frames[0]); !errors.Is(err, errs.ErrUpload) {
		t.Errorf("an unknown upload: %v", err)
	}
	// After all that the upload goes on.
	if err := f.put(u.Upload, 1, f.frames[1:]...); err != nil {
		t.Fatal(err)
	}
}

func TestHostileCommitsAreRefused(t *testing.T) {
	w, _ := listening(t, 3)
	hostileTask(t, w)
	f := w.forger(t, 0)
	u := f.begin(true)
	if err := f.put(u.Upload, 0, f.frames[:len(f.frames)-1]...); err != nil {
		t.Fatal(err)
	}
	mine := f.deposit(f.root)
	refused := func(what string, want error, upload string, root merkle.Hash, weight uint32, deposit *pb.Signed) {
		t.Helper()
		if _, err := f.commit(upload, root, weight, deposit); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	refused("incomplete", errs.ErrIncomplete, u.Upload, f.root, 1, mine)
	if err := f.put(u.Upload, len(f.frames)-1, f.frames[len(f.frames)-1]); err != nil {
		t.Fatal(err)
	}
	wrong := f.root
	wrong[0] ^= 1
	refused("another root", errs.ErrRoot, u.Upload, wrong, 1, f.deposit(wrong))
	refused("no deposit", errs.ErrSignature, u.Upload, f.root, 1, nil)
	refused("a forged receipt", errs.ErrSignature, u.Upload, f.root, 1, &pb.Signed{Object: mine.Object, Signature: slices.Repeat([]byte{1}, 64)})
	refused("the receipt of another root", errs.ErrDeposit, u.Upload, wrong, 1, mine)
	refused("a public weight in sum-key", errs.ErrWeight, u.Upload, f.root, 2, mine)
	refused("weight 0", errs.ErrWeight, u.Upload, f.root, 0, mine)
	refused("an unknown upload", errs.ErrUpload, "nonsense", f.root, 1, mine)
	other := w.forger(t, 1)
	if _, err := other.commit(u.Upload, f.root, 1, mine); !errors.Is(err, errs.ErrDeposit) {
		t.Errorf("another client's upload: %v", err)
	}
	first, err := f.commit(u.Upload, f.root, 1, mine)
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.commit("", f.root, 1, mine)
	if err != nil || !bytes.Equal(first, second) {
		t.Fatalf("the same commit again has another receipt: %v", err)
	}
	refused("a second contribution", errs.ErrContribution, u.Upload, wrong, 1, mine)
	if u := f.begin(true); u.Upload != "" || int(u.Next) != len(f.frames) {
		t.Errorf("after the commit %v", u)
	}
}

// TestAFullDiskRefusesUploadsAndLosesNothing: what was acknowledged before is
// in the result after.
func TestAFullDiskRefusesUploadsAndLosesNothing(t *testing.T) {
	const n = 50_000
	w, _ := listening(t, 3)
	hostileTask(t, w)
	members, updates, means := make([]*client.Client, 3), make([][]float32, 3), make([][]float32, 3)
	held := make([]*client.Contribution, 3)
	for i := range members {
		members[i], updates[i], means[i] = w.client(t, i), make([]float32, n), make([]float32, n)
		updates[i][7] = float32(i) / 4
	}
	contribute := func(i int) error {
		r, err := members[i].Open(t.Context())
		if err == nil {
			held[i], err = members[i].Contribute(t.Context(), r, client.Update{Values: updates[i], Examples: 10}, quiet)
		}
		return err
	}
	for i := range 2 {
		if err := contribute(i); err != nil {
			t.Fatal(err)
		}
	}
	full := func(mib int64) {
		t.Helper()
		if err := w.aggregator.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := config.LoadAggregator(w.Aggregator)
		if err != nil {
			t.Fatal(err)
		}
		c.ReserveMiB = mib
		if w.aggregator, err = service.StartAggregator(c, "test", w.log); err != nil {
			t.Fatal(err)
		}
	}
	full(1 << 30)
	if err := contribute(2); !errors.Is(err, errs.ErrDiskFull) || !strings.Contains(err.Error(), "MiB") {
		t.Fatalf("on a full disk: %v", err)
	}
	full(0)
	if err := contribute(2); err != nil {
		t.Fatal(err)
	}
	together(t, 3, func(i int) error {
		r, err := members[i].Collect(t.Context(), held[i], means[i], quiet)
		if err == nil && r.Cohort != 3 {
			t.Errorf("a cohort of %d", r.Cohort)
		}
		return err
	})
	if d := math.Abs(float64(means[0][7]) - 0.25); d > 1e-3 {
		t.Fatalf("off by %g", d)
	}
}

func TestBadUpdatesAreRefusedByName(t *testing.T) {
	w, _ := listening(t, 3)
	hostileTask(t, w)
	x := w.client(t, 0)
	r, err := x.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bad := func(at int, v float64) []float32 {
		out := make([]float32, 50_000)
		out[at] = float32(v)
		return out
	}
	for _, c := range []struct {
		update   []float32
		examples int64
		want     error
		text     string
	}{
		{bad(29_999, math.NaN()), 1, errs.ErrNotFinite, `"a"`},
		{bad(30_000, math.Inf(-1)), 1, errs.ErrNotFinite, `"b"`},
		{make([]float32, 49_999), 1, errs.ErrLayout, "50000"},
		{nil, 1, errs.ErrLayout, "50000"},
		{make([]float32, 50_000), 0, errs.ErrWeight, "1 to 50"},
		{make([]float32, 50_000), -1, errs.ErrWeight, "1 to 50"},
		{make([]float32, 50_000), 51, errs.ErrWeight, "1 to 50"},
		{make([]float32, 50_000), 1 << 40, errs.ErrWeight, "1 to 50"},
	} {
		if _, err := x.Contribute(context.Background(), r, client.Update{Values: c.update, Examples: c.examples}, quiet); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%d values, %d examples: %v", len(c.update), c.examples, err)
		}
	}
}
