package kms_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/kms"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/sqlite"
	"github.com/cryptflow/cryptflow/go/task"
)

// desk is a key service on a real ledger, and everybody who talks to it.
type desk struct {
	*kms.Service
	t          *testing.T
	folder     string
	now        time.Time
	ledger     storage.Ledger
	log        *bytes.Buffer
	signing    ed25519.PrivateKey
	admin      ed25519.PrivateKey
	aggregator ed25519.PrivateKey
	task       *task.Task
}

func key(t *testing.T, n byte) ed25519.PrivateKey {
	t.Helper()
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32))
}

func public(k ed25519.PrivateKey) task.Key { return task.Key(k.Public().(ed25519.PublicKey)) }

func as(role identity.Role, name string) context.Context {
	return rpc.WithCaller(context.Background(), identity.Identity{Domain: "d", Role: role, Name: name})
}

func newDesk(t *testing.T, mode params.Mode) *desk {
	d := &desk{t: t, folder: t.TempDir(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), log: &bytes.Buffer{}, signing: key(t, 1), admin: key(t, 2), aggregator: key(t, 3)}
	d.open()
	t.Cleanup(func() { _ = d.ledger.Close() })
	d.task = &task.Task{
		Name: "t", Mode: mode, Preset: "n2048-q52", Bits: 8, Rounding: params.Stochastic, Encoding: params.Lanes, Ranges: task.RangesFixed,
		Layout: task.Layout{{Name: "w", Shape: []uint64{10}, Range: 1}}, InitialModel: task.Digest{9}, WeightCap: 5,
		MaxClients: 5, MinCohort: 2, Permille: 600, Deadline: 60, Rounds: 9, Aggregator: public(d.aggregator), KMS: public(d.signing),
	}
	for _, name := range clients {
		d.task.Members = append(d.task.Members, task.Member{Name: name, Organisation: name})
	}
	return d
}

var clients = []string{"a", "b", "c", "d", "e", "f"}

func (d *desk) open() {
	d.t.Helper()
	if err := d.tryOpen(); err != nil {
		d.t.Fatal(err)
	}
}

// config opens what the service runs with.
func (d *desk) config() kms.Config {
	d.t.Helper()
	ledger, err := sqlite.Open(filepath.Join(d.folder, "ledger.db"))
	if err != nil {
		d.t.Fatal(err)
	}
	wrapper, err := kms.OpenKEK(filepath.Join(d.folder, "kek"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.ledger = ledger
	return kms.Config{
		Name: "k", Signing: d.signing, Admins: []task.Key{public(d.admin)}, Gate: kms.Gate{Floor: 3}, Ledger: ledger,
		Keys: filepath.Join(d.folder, "keys"), Epoch: filepath.Join(d.folder, "epoch"), Wrapper: wrapper,
		ReleaseLife: time.Hour, RoundLife: time.Hour,
		Log: slog.New(slog.NewTextHandler(d.log, nil)), Now: func() time.Time { return d.now },
	}
}

// tryOpen starts the service and returns why it does not start.
func (d *desk) tryOpen() (err error) {
	d.t.Helper()
	if d.Service, err = kms.New(d.config()); err != nil {
		d.stop()
	}
	return err
}

// recover makes a restored ledger serve again.
func (d *desk) recover() error {
	d.t.Helper()
	_, err := kms.Recover(context.Background(), d.config())
	d.stop()
	return err
}

func (d *desk) restart() {
	d.t.Helper()
	if err := d.ledger.Close(); err != nil {
		d.t.Fatal(err)
	}
	d.open()
}

func (d *desk) create() {
	d.t.Helper()
	if _, err := d.CreateTask(as(identity.Admin, "x"), pbSigned(task.Sign(d.task, d.admin))); err != nil {
		d.t.Fatal(err)
	}
}

func pbSigned(s task.Signed) *pb.Signed { return &pb.Signed{Object: s.Bytes, Signature: s.Signature} }

func (d *desk) round(n uint32, model task.Digest) *task.RoundSpec {
	d.t.Helper()
	reply, err := d.OpenRound(as(identity.Aggregator, "sum"), d.toOpen(n, model, d.aggregator))
	if err != nil {
		d.t.Fatal(err)
	}
	s, err := task.ParseRoundSpec(reply.Spec.Object)
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// gift is one client's deposit.
type gift struct {
	task.Deposit
	seed  ckks.Seed
	reply *envelope.Key
	in    *pb.DepositRequest
}

func (d *desk) gift(s *task.RoundSpec, client string, root byte) *gift {
	d.t.Helper()
	g := &gift{Deposit: task.Deposit{Spec: task.DigestOf(s), Client: client, ModelDigest: s.ModelDigest, Root: task.Digest{root}, Weight: 1}}
	var err error
	if g.seed, err = ckks.NewSeed(); err != nil {
		d.t.Fatal(err)
	}
	if g.reply, err = envelope.NewKey(); err != nil {
		d.t.Fatal(err)
	}
	g.in = d.reseal(s, g)
	return g
}

// reseal is the request of a deposit as it stands now.
func (d *desk) reseal(s *task.RoundSpec, g *gift) *pb.DepositRequest {
	d.t.Helper()
	seed := g.seed[:]
	if d.task.Mode == params.SharedKey {
		seed = nil
	}
	sealed, err := envelope.Seal(s.HPKE, envelope.Deposit, g.Canonical(), seed)
	if err != nil {
		d.t.Fatal(err)
	}
	return &pb.DepositRequest{Deposit: g.Canonical(), Sealed: sealed, ReplyKey: g.reply.Public()}
}

func (d *desk) give(g *gift) {
	d.t.Helper()
	if _, err := d.Deposit(as(identity.Client, g.Client), g.in); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) gifts(s *task.RoundSpec, names ...string) (out []*gift) {
	d.t.Helper()
	for i, name := range names {
		g := d.gift(s, name, byte(i+1))
		d.give(g)
		out = append(out, g)
	}
	return out
}

func manifest(gifts []*gift) *task.Manifest {
	m := &task.Manifest{Spec: gifts[0].Spec}
	for _, g := range gifts {
		m.Entries = append(m.Entries, task.Entry{Client: g.Client, Root: g.Root, ModelDigest: g.ModelDigest, Weight: 1})
	}
	return m
}

func (d *desk) ask(m *task.Manifest) (*pb.DecisionReply, error) {
	return d.decideWith(m, nil)
}

// decideWith presents a manifest with canaries.
func (d *desk) decideWith(m *task.Manifest, canaries []*pb.Canary) (*pb.DecisionReply, error) {
	object := task.Sign(m, d.aggregator)
	return d.Decide(as(identity.Aggregator, "sum"), &pb.DecideRequest{Object: object.Bytes, Signature: object.Signature, Canaries: canaries})
}

// events counts the audit log's records by event, after verifying all of it.
func (d *desk) events() map[audit.Event]int {
	d.t.Helper()
	reply, err := d.Audit(context.Background(), &pb.AuditRequest{})
	if err != nil {
		d.t.Fatal(err)
	}
	c, err := audit.Open(reply.Checkpoint, "k", d.signing.Public().(ed25519.PublicKey))
	if err != nil {
		d.t.Fatal(err)
	}
	if err := c.Verify(reply.Records); err != nil {
		d.t.Fatal(err)
	}
	out := map[audit.Event]int{}
	for _, line := range reply.Records {
		var r audit.Record
		if err := json.Unmarshal(line, &r); err != nil {
			d.t.Fatal(err)
		}
		out[r.Event]++
	}
	return out
}

func (d *desk) vault() int {
	d.t.Helper()
	entries, err := os.ReadDir(filepath.Join(d.folder, "keys"))
	if err != nil {
		d.t.Fatal(err)
	}
	return len(entries)
}

func want(t *testing.T, what string, err, code error) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Fatalf("%s: %v, want %v", what, err, code)
	}
}

// fetch opens a client's release.
func (d *desk) fetch(g *gift) (*task.Release, []byte, error) {
	reply, err := d.FetchRelease(as(identity.Client, g.Client), &pb.ReleaseRequest{Spec: g.Spec[:]})
	if err != nil {
		return nil, nil, err
	}
	m := task.Signed{Bytes: reply.Manifest.Object}
	to := task.Addressee{Spec: g.Spec, Manifest: m.Digest(), Client: g.Client}
	message, err := g.reply.Open(envelope.Release, to.Canonical(), reply.Sealed)
	if err != nil {
		return nil, nil, err
	}
	c, err := audit.Open(reply.Proof.Checkpoint, "k", d.signing.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, nil, err
	}
	if err := c.Includes(reply.Proof.Record, reply.Proof.Index, reply.Proof.Inclusion); err != nil {
		return nil, nil, err
	}
	rel, err := task.ParseRelease(message)
	return rel, reply.Sealed, err
}

// reports sends what clients say that they opened, without waiting for a verdict.
func (d *desk) reports(gifts []*gift, result *task.Result, opening task.Opening) {
	d.t.Helper()
	for _, g := range gifts {
		r := &task.Report{Spec: g.Spec, Client: g.Client, Opening: opening}
		if opening == task.Opened {
			r.Result, r.Sums = task.DigestOf(result), task.Digest{9}
		}
		if _, err := d.report(r, r.Client); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *desk) report(r *task.Report, caller string) (*pb.ReportReply, error) {
	d.t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: d.now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		d.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		d.t.Fatal(err)
	}
	signature, err := identity.SignEvidence(private, r.Canonical())
	if err != nil {
		d.t.Fatal(err)
	}
	ctx := rpc.WithCertificate(as(identity.Client, caller), c)
	return d.ReportResult(ctx, &pb.ReportRequest{Spec: r.Spec[:], Report: r.Canonical(), Signature: signature})
}

func TestTasksNeedAnAdminOfThisService(t *testing.T) {
	d := newDesk(t, params.SumKey)
	admin := as(identity.Admin, "x")
	_, err := d.CreateTask(admin, pbSigned(task.Sign(d.task, key(t, 8))))
	want(t, "another admin", err, errs.ErrSignature)
	_, err = d.CreateTask(admin, &pb.Signed{Object: d.task.Canonical()})
	want(t, "no signature", err, errs.ErrSignature)
	foreign := *d.task
	foreign.KMS = task.Key{1}
	_, err = d.CreateTask(admin, pbSigned(task.Sign(&foreign, d.admin)))
	want(t, "another key service", err, errs.ErrSpec)
	small := *d.task
	small.MaxClients = 2
	_, err = d.CreateTask(admin, pbSigned(task.Sign(&small, d.admin)))
	want(t, "below the floor", err, errs.ErrArgument)
	d.create()
	d.create()
	other := *d.task
	other.Rounds++
	_, err = d.CreateTask(admin, pbSigned(task.Sign(&other, d.admin)))
	want(t, "another task of the name", err, errs.ErrTaskExists)
	_, err = d.GetTask(as(identity.Client, "stranger"), &pb.TaskName{Name: "t"})
	want(t, "a stranger", err, errs.ErrNotEnrolled)
	_, err = d.GetTask(admin, &pb.TaskName{Name: "u"})
	want(t, "no task", err, errs.ErrNoTask)
	if n := d.events()[audit.TaskCreated]; n != 1 {
		t.Fatalf("%d records of one task", n)
	}
}

// TestTagKeysGoToClientsOnly, and only while the round is undecided.
func TestTagKeysGoToClientsOnly(t *testing.T) {
	for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
		d := newDesk(t, mode)
		d.create()
		reply, err := d.OpenRound(as(identity.Aggregator, "sum"), d.toOpen(0, d.task.InitialModel, d.aggregator))
		if err != nil || len(reply.TagKey) != 0 {
			t.Fatalf("opening a round answers with %d bytes of a tag key: %v", len(reply.TagKey), err)
		}
		get := func(ctx context.Context) []byte {
			reply, err := d.GetSpec(ctx, &pb.SpecRequest{Task: "t"})
			if err != nil {
				t.Fatal(err)
			}
			return reply.TagKey
		}
		first := get(as(identity.Client, "a"))
		if len(first) != 32 || !bytes.Equal(first, get(as(identity.Client, "b"))) || bytes.Equal(first, make([]byte, 32)) {
			t.Fatalf("clients get %d bytes", len(first))
		}
		for _, role := range []identity.Role{identity.Aggregator, identity.Admin, identity.KMS} {
			if n := len(get(as(role, "sum"))); n != 0 {
				t.Errorf("%v gets %d bytes of a tag key", role, n)
			}
		}
		if _, err := d.GetSpec(as(identity.Client, "stranger"), &pb.SpecRequest{Task: "t"}); !errors.Is(err, errs.ErrNotEnrolled) {
			t.Errorf("a stranger: %v", err)
		}
		spec := sha256.Sum256(reply.Spec.Object)
		if _, err := d.Abort(as(identity.Aggregator, "sum"), d.toAbort(0, spec, "test", d.aggregator)); err != nil {
			t.Fatal(err)
		}
		if n := len(get(as(identity.Client, "a"))); n != 0 {
			t.Errorf("%d bytes of a tag key after the decision", n)
		}
	}
}

func TestOneSpecificationARound(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	first := d.round(0, d.task.InitialModel)
	d.restart()
	if task.DigestOf(d.round(0, d.task.InitialModel)) != task.DigestOf(first) {
		t.Fatal("a second specification of one round")
	}
	open := func(n uint32, model task.Digest) error {
		_, err := d.OpenRound(as(identity.Aggregator, "sum"), d.toOpen(n, model, d.aggregator))
		return err
	}
	want(t, "another model", open(0, task.Digest{1}), errs.ErrSpec)
	want(t, "while the round before is open", open(1, d.task.InitialModel), errs.ErrState)
	want(t, "a round skipped", open(2, d.task.InitialModel), errs.ErrState)
	spec := task.DigestOf(first)
	if _, err := d.Abort(as(identity.Aggregator, "sum"), d.toAbort(0, spec, "test", d.aggregator)); err != nil {
		t.Fatal(err)
	}
	want(t, "another model after an abort", open(1, task.Digest{1}), errs.ErrSpec)
	second := d.round(1, d.task.InitialModel)
	if task.DigestOf(second) == spec || bytes.Equal(second.HPKE, first.HPKE) {
		t.Fatal("rounds share keys")
	}
	gifts := d.gifts(second, "a", "b", "c")
	if _, err := d.ask(manifest(gifts)); err != nil {
		t.Fatal(err)
	}
	want(t, "before the result", open(2, d.task.InitialModel), errs.ErrState)
	result := &task.Result{Spec: task.DigestOf(second), Manifest: task.DigestOf(manifest(gifts)), Root: task.Digest{4}, Frames: 2, Terms: 3}
	forged := task.Sign(result, key(t, 8))
	_, err := d.CloseRound(as(identity.Aggregator, "sum"), pbSigned(forged))
	want(t, "a forged result", err, errs.ErrSignature)
	for range 2 {
		if _, err := d.CloseRound(as(identity.Aggregator, "sum"), pbSigned(task.Sign(result, d.aggregator))); err != nil {
			t.Fatal(err)
		}
	}
	other := *result
	other.Root = task.Digest{5}
	_, err = d.CloseRound(as(identity.Aggregator, "sum"), pbSigned(task.Sign(&other, d.aggregator)))
	want(t, "another result", err, errs.ErrDecided)
	d.reports(gifts[:2], result, task.Opened)
	next := task.NextModel(second.ModelDigest, task.DigestOf(second), task.DigestOf(result))
	want(t, "the old model", open(2, d.task.InitialModel), errs.ErrSpec)
	if d.round(2, next).Round != 2 {
		t.Fatal("the chain of models broke")
	}
}

func TestDeposits(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	g := d.gift(s, "a", 1)
	deposit := func(caller string, in *pb.DepositRequest) error {
		_, err := d.Deposit(as(identity.Client, caller), in)
		return err
	}
	want(t, "for another client", deposit("b", g.in), errs.ErrDenied)
	want(t, "a stranger", deposit("z", d.gift(s, "z", 1).in), errs.ErrNotEnrolled)
	other := d.gift(&task.RoundSpec{Kind: task.KindValues, HPKE: s.HPKE, Round: 7}, "a", 1)
	want(t, "another round", deposit("a", other.in), errs.ErrNoRound)
	model := d.gift(s, "a", 1)
	model.ModelDigest = task.Digest{77}
	model.in.Deposit = model.Canonical()
	want(t, "another model", deposit("a", model.in), errs.ErrModelMismatch)
	want(t, "garbage", deposit("a", &pb.DepositRequest{Deposit: g.Canonical(), Sealed: make([]byte, len(g.in.Sealed)), ReplyKey: g.in.ReplyKey}), errs.ErrDeposit)
	want(t, "cut", deposit("a", &pb.DepositRequest{Deposit: g.Canonical(), Sealed: g.in.Sealed[:7], ReplyKey: g.in.ReplyKey}), errs.ErrDeposit)
	want(t, "no reply key", deposit("a", &pb.DepositRequest{Deposit: g.Canonical(), Sealed: g.in.Sealed}), errs.ErrDeposit)
	low := bytes.Clone(g.in.ReplyKey) // a key that parses and fails when it is used
	clear(low[len(low)-32:])
	want(t, "a low-order reply key", deposit("a", &pb.DepositRequest{Deposit: g.Canonical(), Sealed: g.in.Sealed, ReplyKey: low}), errs.ErrDeposit)
	heavy := d.gift(s, "a", 1)
	heavy.Weight = 2
	heavy.in.Deposit = heavy.Canonical()
	want(t, "a weight", deposit("a", heavy.in), errs.ErrWeight)
	long, err := envelope.Seal(s.HPKE, envelope.Deposit, g.Canonical(), make([]byte, 33))
	if err != nil {
		t.Fatal(err)
	}
	want(t, "33 bytes", deposit("a", &pb.DepositRequest{Deposit: g.Canonical(), Sealed: long, ReplyKey: g.in.ReplyKey}), errs.ErrDeposit)
	first, err := d.Deposit(as(identity.Client, "a"), g.in)
	if err != nil {
		t.Fatal(err)
	}
	receipt := task.Signed{Bytes: first.Object, Signature: first.Signature}
	if receipt.Verify(public(d.signing)) != nil || !bytes.Equal(first.Object, g.Canonical()) {
		t.Fatal("not a receipt of the deposit")
	}
	again, err := d.Deposit(as(identity.Client, "a"), g.in)
	if err != nil || !bytes.Equal(again.Signature, first.Signature) {
		t.Fatal("the same deposit again", err)
	}
	want(t, "another key for one root", deposit("a", d.gift(s, "a", 1).in), errs.ErrDeposit)
	for root := byte(2); root <= kms.MaxDeposits; root++ {
		d.give(d.gift(s, "a", root))
	}
	want(t, "one too many", deposit("a", d.gift(s, "a", 99).in), errs.ErrDeposit)
}

func TestTheGateRefusesAndRecords(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.task.MaxClients = 4
	d.task.Permille = 1000
	d.create()
	s := d.round(0, d.task.InitialModel)
	gifts := d.gifts(s, "a", "b", "c", "d", "e")
	refused := 0
	check := func(what string, m *task.Manifest, by ed25519.PrivateKey, code error) {
		t.Helper()
		object := task.Sign(m, by)
		_, err := d.Decide(as(identity.Aggregator, "sum"), &pb.DecideRequest{Object: object.Bytes, Signature: object.Signature})
		want(t, what, err, code)
		refused++
		if n := d.events()[audit.Refused]; n != refused {
			t.Fatalf("%s: %d of %d refusals are in the log", what, n, refused)
		}
	}
	good := func(n int) *task.Manifest { return manifest(gifts[:n]) }
	check("below the floor", good(2), d.aggregator, errs.ErrManifest)
	check("too few of the depositors", good(4), d.aggregator, errs.ErrManifest)
	check("above n_max", good(5), d.aggregator, errs.ErrManifest)
	twice := good(4)
	twice.Entries[1] = twice.Entries[0]
	check("a client twice", twice, d.aggregator, errs.ErrManifest)
	disorder := good(4)
	disorder.Entries[0], disorder.Entries[1] = disorder.Entries[1], disorder.Entries[0]
	check("out of order", disorder, d.aggregator, errs.ErrManifest)
	unknown := good(4)
	unknown.Entries[3].Client = "nobody"
	check("an unknown client", unknown, d.aggregator, errs.ErrManifest)
	without := good(4)
	without.Entries[3].Client = "f"
	check("a client without deposit", without, d.aggregator, errs.ErrManifest)
	root := good(4)
	root.Entries[0].Root[5] ^= 1
	check("another root", root, d.aggregator, errs.ErrManifest)
	models := good(4)
	models.Entries[2].ModelDigest[0] ^= 1
	check("differing models", models, d.aggregator, errs.ErrManifest)
	heavy := good(4)
	heavy.Entries[0].Weight = 2
	check("a public weight in sum-key", heavy, d.aggregator, errs.ErrManifest)
	check("another signer", good(4), key(t, 8), errs.ErrSignature)
	if d.vault() != 1 {
		t.Fatal("a refusal destroyed keys")
	}
}

func TestAReleaseOpensForItsCohortAndNobodyElse(t *testing.T) {
	for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
		t.Run(mode.String(), func(t *testing.T) {
			d := newDesk(t, mode)
			d.create()
			s := d.round(0, d.task.InitialModel)
			gifts := d.gifts(s, "a", "b", "c", "d")
			d.restart() // between deposits and decision
			if d.vault() != 1 {
				t.Fatalf("%d keys of one round", d.vault())
			}
			cohort := gifts[:3]
			first, err := d.ask(manifest(cohort))
			if err != nil {
				t.Fatal(err)
			}
			if d.vault() != 0 {
				t.Fatal("the round's key outlived the decision")
			}
			scheme, err := d.task.Scheme()
			if err != nil {
				t.Fatal(err)
			}
			var secret []int32
			for round := range 2 {
				for _, g := range cohort {
					rel, sealed, err := d.fetch(g)
					if err != nil {
						t.Fatal(err)
					}
					if rel.Terms != 3 || rel.Mode != mode || len(rel.Secret) != scheme.N() {
						t.Fatalf("%v", rel)
					}
					secret = rel.Secret
					if _, again, err := d.fetch(g); err != nil || !bytes.Equal(sealed, again) {
						t.Fatal("the stored bytes changed", err)
					}
				}
				if round == 0 {
					d.restart()
				}
			}
			if mode == params.SumKey {
				sum, err := ckks.SumSecrets(scheme.Preset, task.DigestOf(s), []ckks.Seed{cohort[0].seed, cohort[1].seed, cohort[2].seed})
				if err != nil || fmt.Sprint(sum) != fmt.Sprint(secret) {
					t.Fatal("the release is not the sum of the cohort's secrets", err)
				}
			}
			_, _, err = d.fetch(gifts[3])
			want(t, "a client outside the cohort", err, errs.ErrNotInCohort)
			stolen := *gifts[3]
			stolen.Client = "a"
			_, _, err = d.fetch(&stolen)
			want(t, "another client's reply key", err, errs.ErrCanonical)

			again, err := d.ask(manifest(cohort))
			if err != nil || !bytes.Equal(again.Decision.Signature, first.Decision.Signature) {
				t.Fatal("the same set again", err)
			}
			_, err = d.ask(manifest(gifts))
			want(t, "a second set", err, errs.ErrDecided)
			spec := task.DigestOf(s)
			_, err = d.Abort(as(identity.Aggregator, "sum"), d.toAbort(0, spec, "", d.aggregator))
			want(t, "abort after release", err, errs.ErrDecided)
			_, err = d.Deposit(as(identity.Client, "e"), d.gift(s, "e", 5).in)
			want(t, "a deposit after release", err, errs.ErrNotInCohort)
			if n := d.events()[audit.Refused]; n != 2 {
				t.Fatalf("%d refusals in the log", n)
			}
			d.nothingSecretRemains(gifts, secret)
		})
	}
}

// nothingSecretRemains looks for seeds and the released key in everything that
// the service wrote.
func (d *desk) nothingSecretRemains(gifts []*gift, secret []int32) {
	d.t.Helper()
	var needles [][]byte
	for _, g := range gifts {
		needles = append(needles, g.seed[:16])
	}
	var part []byte
	for _, v := range secret[:8] {
		part = binary.LittleEndian.AppendUint32(part, uint32(v))
	}
	needles = append(needles, part)
	if err := d.ledger.Close(); err != nil {
		d.t.Fatal(err)
	}
	haystack := d.log.Bytes()
	err := filepath.Walk(d.folder, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		haystack = append(haystack, b...)
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.open()
	for _, n := range needles {
		if bytes.Contains(haystack, n) {
			d.t.Fatal("a secret is in the log or on the disk")
		}
	}
}

func TestKeysGoWhenTheCohortHasReported(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	gifts := d.gifts(s, "a", "b", "c")
	if _, err := d.ask(manifest(gifts)); err != nil {
		t.Fatal(err)
	}
	result := &task.Result{Spec: task.DigestOf(s), Manifest: task.DigestOf(manifest(gifts)), Root: task.Digest{4}, Frames: 2, Terms: 3}
	if _, err := d.CloseRound(as(identity.Aggregator, "sum"), pbSigned(task.Sign(result, d.aggregator))); err != nil {
		t.Fatal(err)
	}
	spec := task.DigestOf(s)
	for i, g := range gifts {
		if _, _, err := d.fetch(g); err != nil {
			t.Fatal(err)
		}
		other := *result
		if i == 1 {
			other.Root[0]++
		}
		d.reports(gifts[i:i+1], &other, task.Opened)
	}
	_, _, err := d.fetch(gifts[0])
	want(t, "after everybody reported", err, errs.ErrKeysDestroyed)
	if e := d.events(); e[audit.KeysDestroyed] != 1 || e[audit.Disagreement] != 2 || !strings.Contains(d.log.String(), "differs from others") {
		t.Fatalf("%v", e)
	}
	reply, err := d.GetDecision(as(identity.Aggregator, "sum"), &pb.SpecId{Spec: spec[:]})
	if err != nil || !reply.KeysDestroyed {
		t.Fatal("the aggregator is not told", err)
	}
}

func TestTimeEndsRoundsAndReleases(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	gifts := d.gifts(s, "a", "b", "c")
	sweep := func(by time.Duration) {
		t.Helper()
		d.now = d.now.Add(by)
		if err := d.Sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	sweep(time.Hour)
	if d.events()[audit.Aborted] != 0 {
		t.Fatal("aborted early")
	}
	sweep(2 * time.Minute)
	if d.events()[audit.Aborted] != 1 || d.vault() != 0 {
		t.Fatal("an overdue round goes on")
	}
	_, err := d.ask(manifest(gifts))
	want(t, "release after abort", err, errs.ErrDecided)
	s = d.round(1, d.task.InitialModel)
	gifts = d.gifts(s, "a", "b", "c")
	if _, err := d.ask(manifest(gifts)); err != nil {
		t.Fatal(err)
	}
	sweep(59 * time.Minute)
	if _, _, err := d.fetch(gifts[0]); err != nil {
		t.Fatal(err)
	}
	sweep(2 * time.Minute)
	_, _, err = d.fetch(gifts[0])
	want(t, "a release that ended", err, errs.ErrKeysDestroyed)
}

// TestACrashLeavesNoKeyBehind: a vault file of a decided round, or of one that
// was never signed, goes at the next start.
func TestACrashLeavesNoKeyBehind(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	entries, err := os.ReadDir(filepath.Join(d.folder, "keys"))
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	path := filepath.Join(d.folder, "keys", entries[0].Name())
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spec := task.DigestOf(s)
	if _, err := d.Abort(as(identity.Aggregator, "sum"), d.toAbort(0, spec, "", d.aggregator)); err != nil {
		t.Fatal(err)
	}
	orphan := strings.Replace(path, "-00000000", "-00000005", 1)
	for _, p := range []string{path, orphan} {
		if err := os.WriteFile(p, kept, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.restart()
	if d.vault() != 0 {
		t.Fatalf("%d keys are left", d.vault())
	}
}

func TestAnotherKEKOpensNothing(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	if err := os.Remove(filepath.Join(d.folder, "kek")); err != nil {
		t.Fatal(err)
	}
	d.restart()
	_, err := d.Deposit(as(identity.Client, "a"), d.gift(s, "a", 1).in)
	want(t, "a deposit under another key-encryption key", err, errs.ErrStorage)
	if err := os.WriteFile(filepath.Join(d.folder, "kek"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = kms.OpenKEK(filepath.Join(d.folder, "kek"))
	want(t, "a short key-encryption key", err, errs.ErrConfig)
}
