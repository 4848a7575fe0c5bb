package attacks

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/canary"
	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/service"
	"github.com/cryptflow/cryptflow/go/tag"
	"github.com/cryptflow/cryptflow/go/task"
)

// latest is where a task stands, as `cryptflow task show` prints it.
func (w *world) latest(t *testing.T, name string) *pb.RoundStatus {
	t.Helper()
	s, err := w.admin(t).Rounds.GetTask(t.Context(), &pb.TaskName{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return s.Round
}

// recorded says whether the key service's log has such a record of a client.
func (w *world) recorded(t *testing.T, words ...string) bool {
	t.Helper()
	log, err := w.admin(t).Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(log.Records, func(b []byte) bool {
		for _, word := range words {
			if !bytes.Contains(b, []byte(word)) {
				return false
			}
		}
		return true
	})
}

// TestAClientDepositsAnotherKeyThanItUsed: its canaries are not under the key
// that it deposited. It is refused by name before anything is opened, and the
// others have their mean.
func TestAClientDepositsAnotherKeyThanItUsed(t *testing.T) {
	const values = 100
	w := newWorld(t, 4)
	w.create(t, "t", 0, 4, values, 1)
	liar := w.member(t, "t", 3, time.Minute, bent(func(method string, in, _ any, call func() error) error {
		if deposit, ok := in.(*pb.DepositRequest); ok && method == "Deposit" {
			reply, err := w.spec(t, 3, "t", 0)
			if err != nil {
				return err
			}
			if deposit.Sealed, err = envelope.Seal(reply.HPKE, envelope.Deposit, deposit.Deposit, make([]byte, 32)); err != nil {
				return err
			}
		}
		return call()
	})...)
	var all sync.WaitGroup
	var lied error
	all.Go(func() {
		_, lied = liar.Average(t.Context(), client.Update{Values: make([]float32, values), Examples: 1}, make([]float32, values), quiet)
	})
	average(t, w.members(t, "t", 0, 3), values)
	all.Wait()
	if !errors.Is(lied, errs.ErrNotInCohort) {
		t.Errorf("the client hears: %v", lied)
	}
	if s := w.latest(t, "t"); !slices.Equal(s.Refused, []string{service.ClientName(3)}) || s.Cohort != 3 || s.Failed != "" {
		t.Errorf("the round is shown as %v", s)
	}
	if !w.recorded(t, `"excluded"`, service.ClientName(3), "not under its deposited key") {
		t.Error("the log does not name the client and why")
	}
}

// garbage contributes a data chunk under another key than the control chunk's,
// which is the deposited one: its canaries are right.
func (w *world) garbage(t *testing.T, i int, name string) {
	t.Helper()
	a, x := w.attacker(t, w.Clients[i], nil), w.member(t, name, i, time.Minute)
	r, err := x.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reply, err := a.keys.GetSpec(t.Context(), &pb.SpecRequest{Task: name, Round: r.Spec.Round})
	if err != nil {
		t.Fatal(err)
	}
	shape, err := x.Task().Shape(r.Spec.Kind)
	if err != nil {
		t.Fatal(err)
	}
	key := tag.Key(reply.TagKey)
	round := seal.Round{
		Scheme: shape.Scheme, SpecDigest: r.Digest, Metrics: shape.Metrics, WeightCap: shape.WeightCap, Tag: &key, Canaries: shape.Canaries,
	}
	for _, l := range shape.Layout {
		round.Tensors = append(round.Tensors, seal.Tensor{Name: l.Name, Count: l.Count(), Range: l.Range})
	}
	var frames [2][][]byte
	var own []byte
	var secrets seal.Secrets
	for k := range frames {
		if secrets, err = seal.NewSecrets(); err != nil {
			t.Fatal(err)
		}
		s, err := seal.NewSealer(round, secrets, make([]float32, round.Values()), 1, 1, seal.From(service.ClientName(i)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Seal(t.Context(), 0, s.Frames(), func(_ int, b []byte) error {
			frames[k] = append(frames[k], bytes.Clone(b))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		own, _ = s.Canary()
	}
	last := len(frames[0]) - 1
	sent := append(frames[0][:last:last], frames[1][last])
	var tree merkle.Tree
	for _, b := range sent {
		tree.Append(merkle.Leaf(b))
	}
	root := canary.Root(tree, own)
	u, err := a.rounds.BeginUpload(t.Context(), &pb.BeginRequest{Spec: r.Digest[:], Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := arrowio.PutFrames(t.Context(), a.sums, u.Upload, 0, func(emit func(int, []byte) error) error {
		for k, b := range sent {
			if err := emit(k, b); err != nil {
				return err
			}
		}
		return nil
	}, 1, func(int) {}); err != nil {
		t.Fatal(err)
	}
	d := &task.Deposit{Spec: r.Digest, Client: service.ClientName(i), ModelDigest: r.Spec.ModelDigest, Root: root, Weight: 1}
	answer, err := envelope.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := envelope.Seal(r.Spec.HPKE, envelope.Deposit, d.Canonical(), secrets.Key[:])
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := a.keys.Deposit(t.Context(), &pb.DepositRequest{Deposit: d.Canonical(), Sealed: sealed, ReplyKey: answer.Public()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.rounds.Commit(t.Context(), &pb.CommitRequest{Upload: u.Upload, Spec: r.Digest[:], Root: root[:], Weight: 1, Deposit: receipt}); err != nil {
		t.Fatal(err)
	}
}

// TestAClientKeepsItsCanariesRightAndSendsGarbage: nobody can tell before the sum
// is opened, and it does not open. The round counts for nobody, everybody hears
// why, and the next one starts from the same model.
func TestAClientKeepsItsCanariesRightAndSendsGarbage(t *testing.T) {
	const values = 100
	w := newWorld(t, 4)
	w.create(t, "t", 0, 4, values, 1)
	w.garbage(t, 3, "t")
	honest := w.members(t, "t", 0, 3)
	update := make([]float32, values)
	var all sync.WaitGroup
	failures := make([]error, len(honest))
	for i, x := range honest {
		all.Go(func() {
			_, failures[i] = x.Average(t.Context(), client.Update{Values: update, Examples: 1}, make([]float32, values), quiet)
		})
	}
	all.Wait()
	for i, err := range failures {
		if !errors.Is(err, errs.ErrFailed) || !strings.Contains(err.Error(), "of 4 clients could not open the sum") {
			t.Fatalf("client %d: %v", i, err)
		}
	}
	// The task has one round to publish: the failed one is not it.
	for _, x := range honest {
		r, err := x.Open(t.Context())
		if err != nil || r.Spec.Round != 1 || r.Spec.Step != 0 || r.Spec.Spent() != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
}

// TestAContributionRotsOnTheAggregatorsDisk: the aggregator finds that its
// canaries are not those that were committed and leaves it out. That is its own
// word, so for the key service the client is missing.
func TestAContributionRotsOnTheAggregatorsDisk(t *testing.T) {
	const values = 100
	w := newWorld(t, 4)
	w.create(t, "t", 0, 4, values, 1)
	victim := w.members(t, "t", 3, 4)[0]
	c, _, err := victim.Give(t.Context(), client.Update{Values: make([]float32, values), Examples: 1}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	rotten := 0
	if err := filepath.WalkDir(w.Folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "contributions") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[len(b)/2] ^= 1
		rotten++
		return os.WriteFile(path, b, 0o600)
	}); err != nil || rotten != 1 {
		t.Fatalf("%d files: %v", rotten, err)
	}
	average(t, w.members(t, "t", 0, 3), values)
	if _, err := victim.Collect(t.Context(), c, make([]float32, values), quiet); !errors.Is(err, errs.ErrNotInCohort) {
		t.Errorf("the client hears: %v", err)
	}
	name := []string{service.ClientName(3)}
	if s := w.latest(t, "t"); !slices.Equal(s.Refused, name) || !slices.Equal(s.Missing, name) || s.Cohort != 3 {
		t.Errorf("the round is shown as %v", s)
	}
	if w.recorded(t, `"excluded"`) {
		t.Error("the key service took the aggregator's word")
	}
}
