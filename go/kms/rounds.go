package kms

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/tag"
	"github.com/cryptflow/cryptflow/go/task"
)

// bucketOpen lists specifications whose keys exist: what a sweep looks at.
const bucketOpen = "kms/open"

// OpenRound signs the specification of a task's next round, once: the same
// request again gets the same bytes. It makes the round's keys, which never
// leave unwrapped.
func (s *Service) OpenRound(ctx context.Context, in *pb.OpenRequest) (out *pb.SpecReply, err error) {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return nil, err
	}
	model, err := digest(in.Model)
	if err != nil {
		return nil, err
	}
	deadline := time.NewTimer(maxWait / 2)
	defer deadline.Stop()
	for {
		rung := s.reported.wait()
		out, err = s.openRound(ctx, caller, in, model)
		if !errors.Is(err, errs.ErrPending) {
			return out, err
		}
		select {
		case <-rung:
		case <-deadline.C:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Service) openRound(
	ctx context.Context, caller identity.Identity, in *pb.OpenRequest, model task.Digest,
) (out *pb.SpecReply, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.update(ctx, func(w storage.Writer) error {
		t, _, err := taskOf(w, in.Task)
		if err != nil {
			return err
		}
		if err := askedToOpen(t, in, model); err != nil || in.Round == 0 {
			return err
		}
		return s.settle(w, t, in.Round-1)
	}); err != nil {
		return nil, err
	}
	err = s.update(ctx, func(w storage.Writer) error {
		t, _, err := taskOf(w, in.Task)
		if err != nil {
			return err
		}
		id := task.DigestOf(t).String()
		if spec, reply, err := specOf(w, id, in.Round); err != nil {
			return err
		} else if reply != nil {
			if spec.ModelDigest != model {
				return fmt.Errorf("round %d of %s was opened for another model: %w", in.Round, t.Name, errs.ErrSpec)
			}
			out = reply
			return nil
		}
		if err := closed(w, t); err != nil {
			return err
		}
		next, err := s.follows(w, t, in.Round, model)
		if err != nil {
			return err
		}
		if out, err = s.newSpec(t, in.Round, next, model); err != nil {
			return err
		}
		spec := unsigned(out.Spec).Digest()
		if err := putProto(w, bucketSpec, specKey(id, in.Round), out); err != nil {
			return err
		}
		if err := putRound(w, spec, &round{Task: t.Name, TaskDigest: id, Round: in.Round, Opened: s.c.Now()}); err != nil {
			return err
		}
		if err := w.Put(bucketOpen, spec.String(), []byte{}); err != nil {
			return err
		}
		_, err = s.record(w, audit.Record{Event: audit.SpecSigned, Task: t.Name, Round: in.Round, Spec: spec.String(), By: caller.String()})
		return err
	})
	return out, err
}

// place is where a round stands in its task: what it sums, how many updates were
// published before it, and how many were released and did not open.
type place struct {
	kind         task.Kind
	step, failed uint32
}

// follows says whether round n of a task may be opened for a model: the one
// before has ended, and the model is what it led to. It returns ErrPending while
// the cohort of the one before is still reporting what it opened.
func (s *Service) follows(r storage.Reader, t *task.Task, n uint32, model task.Digest) (place, error) {
	if n >= task.MaxRounds {
		return place{}, fmt.Errorf("round %d: %w", n, errs.ErrTaskEnded)
	}
	want, at := t.InitialModel, place{kind: t.Ranges.First()}
	if n > 0 {
		var err error
		if want, at, err = s.after(r, t, n-1, model); err != nil {
			return place{}, err
		}
	}
	if model != want {
		return place{}, fmt.Errorf("round %d of %s starts from model %s, not %s: %w",
			n, t.Name, want.Short(), model.Short(), errs.ErrSpec)
	}
	if at.step >= t.Rounds {
		return place{}, fmt.Errorf("%s has published its %d updates: %w", t.Name, t.Rounds, errs.ErrTaskEnded)
	}
	return at, nil
}

// after is the model that round n led to, and the place of the round after it. It
// returns ErrFailed to whoever asks for the model of a sum that did not open.
func (s *Service) after(
	r storage.Reader, t *task.Task, n uint32, asked task.Digest,
) (model task.Digest, at place, err error) {
	before, reply, err := specOf(r, task.DigestOf(t).String(), n)
	if err != nil {
		return model, at, err
	}
	if reply == nil {
		return model, at, fmt.Errorf("round %d of %s before round %d: %w", n+1, t.Name, n, errs.ErrState)
	}
	spec := task.DigestOf(before)
	x, err := roundOf(r, spec)
	if err != nil {
		return model, at, err
	}
	d, err := x.decision()
	if err != nil {
		return model, at, err
	}
	if x.Lost != "" {
		return model, at, fmt.Errorf("round %d of %s: %s: %w", n, t.Name, x.Lost, errs.ErrLost)
	}
	if d == nil {
		return model, at, fmt.Errorf("round %d of %s is open: %w", n, t.Name, errs.ErrState)
	}
	again := place{kind: before.Kind, step: before.Step, failed: before.Failed}
	if d.Outcome == task.Aborted {
		return before.ModelDigest, again, nil
	}
	opening, result, err := s.settled(x)
	if err != nil {
		return model, at, err
	}
	next := task.NextModel(before.ModelDigest, spec, result)
	if opening == task.NotOpened {
		if before.Kind == task.KindValues {
			again.failed++
		}
		if asked == task.NextModel(before.ModelDigest, spec, sha256.Sum256(x.Result)) {
			err = fmt.Errorf("round %d of %s: %w", n, t.Name, errs.ErrFailed)
		}
		return before.ModelDigest, again, err
	}
	at = place{kind: t.Ranges.Next(before.Kind), step: before.Kind.Steps(before.Step), failed: again.failed}
	return next, at, nil
}

// newSpec draws a round's keys, stores them wrapped, and signs the
// specification that names their public halves.
func (s *Service) newSpec(t *task.Task, n uint32, at place, model task.Digest) (*pb.SpecReply, error) {
	shape, err := t.Shape(at.kind)
	if err != nil {
		return nil, err
	}
	scheme := shape.Scheme
	deposits, err := envelope.NewKey()
	if err != nil {
		return nil, err
	}
	spec := &task.RoundSpec{
		Task: task.DigestOf(t), Round: n, Kind: at.kind, Step: at.step, Failed: at.failed,
		ModelDigest: model, LayoutDigest: task.DigestOf(shape.Layout),
		Lanes: uint32(scheme.Lanes), LogDelta: uint32(scheme.LogDelta), HPKE: deposits.Public(),
	}
	if _, err := rand.Read(spec.Nonce[:]); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", errs.ErrInternal)
	}
	var tagKey tag.Key
	if _, err := rand.Read(tagKey[:]); err != nil {
		return nil, fmt.Errorf("drawing a tag key: %w", errs.ErrInternal)
	}
	defer clear(tagKey[:])
	private, err := deposits.Secret()
	if err != nil {
		return nil, err
	}
	defer clear(private)
	secret := slices.Concat(tagKey[:], private)
	defer clear(secret)
	reply := &pb.SpecReply{}
	if scheme.Mode == params.SharedKey {
		seed, err := ckks.NewSeed()
		if err != nil {
			return nil, err
		}
		defer clear(seed[:])
		if _, reply.PublicKey, err = ckks.GenerateKeyPair(scheme.Preset, spec.Nonce, seed); err != nil {
			return nil, err
		}
		spec.PublicKey = sha256.Sum256(reply.PublicKey)
		secret = slices.Concat(tagKey[:], seed[:], private)
		defer clear(secret)
	}
	if err := s.vault.put(keyName(spec.Task.String(), n), secret); err != nil {
		return nil, err
	}
	reply.Spec = signed(task.Sign(spec, s.c.Signing))
	return reply, nil
}

// keys returns a round's deposit key and, in shared-key, the seed of its pair.
// A round's secret is its tag key, that seed, and the deposit key.
func (s *Service) keys(t *task.Task, n uint32) (*envelope.Key, ckks.Seed, error) {
	var seed ckks.Seed
	secret, err := s.vault.get(keyName(task.DigestOf(t).String(), n))
	if err != nil {
		return nil, seed, err
	}
	defer clear(secret)
	from := len(tag.Key{})
	if t.Mode == params.SharedKey {
		from += len(seed)
	}
	if len(secret) < from {
		return nil, seed, fmt.Errorf("a round's key: %w", errs.ErrStorage)
	}
	if t.Mode == params.SharedKey {
		copy(seed[:], secret[len(tag.Key{}):])
	}
	k, err := envelope.ParseKey(secret[from:])
	return k, seed, err
}

// GetSpec returns the signed specification of a round, and to a client of the
// task the round's tag key, while the round is undecided.
func (s *Service) GetSpec(ctx context.Context, in *pb.SpecRequest) (out *pb.SpecReply, err error) {
	return out, s.view(ctx, func(r storage.Reader) error {
		t, _, err := taskOf(r, in.Task)
		if err != nil {
			return err
		}
		if err := enrolled(ctx, t); err != nil {
			return err
		}
		id := task.DigestOf(t).String()
		spec, reply, err := specOf(r, id, in.Round)
		if err != nil {
			return err
		}
		if reply == nil {
			return fmt.Errorf("round %d of %s: %w", in.Round, t.Name, errs.ErrNoRound)
		}
		out = reply
		caller, err := rpc.Caller(ctx)
		if err != nil || caller.Role != identity.Client {
			return err
		}
		x, err := roundOf(r, task.DigestOf(spec))
		if err != nil || x.Decision != nil {
			return err
		}
		if err := s.decidable(x); err != nil {
			return err
		}
		secret, err := s.vault.get(keyName(id, in.Round))
		if err != nil {
			return err
		}
		defer clear(secret)
		if len(secret) < len(tag.Key{}) {
			return fmt.Errorf("a round's key: %w", errs.ErrStorage)
		}
		out.TagKey = slices.Clone(secret[:len(tag.Key{})])
		return nil
	})
}

func depositKey(spec task.Digest, client string, root task.Digest) string {
	return spec.String() + "/" + client + "/" + root.String()
}

// Deposit takes the sealed key of one contribution and signs its receipt. The
// same deposit again gets the same receipt.
func (s *Service) Deposit(ctx context.Context, in *pb.DepositRequest) (*pb.Signed, error) {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return nil, err
	}
	d, err := task.ParseDeposit(in.Deposit)
	if err != nil {
		return nil, err
	}
	if d.Client != caller.Name {
		return nil, fmt.Errorf("a deposit of %s sent by %s: %w", d.Client, caller.Name, errs.ErrDenied)
	}
	if err := checkDepositSize(in); err != nil {
		return nil, err
	}
	if err := envelope.CheckPublic(in.ReplyKey); err != nil {
		return nil, fmt.Errorf("reply key: %v: %w", err, errs.ErrDeposit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.update(ctx, func(w storage.Writer) error {
		x, t, err := s.memberOf(ctx, w, d.Spec)
		if err != nil {
			return err
		}
		again, err := s.takes(w, t, x, d, in)
		if err != nil || again {
			return err // what stands is never written again
		}
		if x.Deposited.IsZero() {
			x.Deposited = s.c.Now()
			if err := putRound(w, d.Spec, x); err != nil {
				return err
			}
		}
		return putProto(w, bucketDeposit, depositKey(d.Spec, d.Client, d.Root), in)
	})
	if err != nil {
		return nil, err
	}
	return signed(task.Sign(d, s.c.Signing)), nil
}

// takes says whether a deposit may be stored.
func (s *Service) takes(
	r storage.Reader, t *task.Task, x *round, d *task.Deposit, in *pb.DepositRequest,
) (again bool, err error) {
	var old pb.DepositRequest
	if again, err = getProto(r, bucketDeposit, depositKey(d.Spec, d.Client, d.Root), &old); err != nil {
		return false, err
	}
	if again {
		// After a decision the sealed key is gone; the receipt still stands.
		if string(old.Deposit) == string(in.Deposit) && (x.Decision != nil || proto.Equal(&old, in)) {
			return true, nil
		}
		return false, fmt.Errorf("another key was deposited for the same contribution: %w", errs.ErrDeposit)
	}
	return false, s.acceptable(r, t, x, d, in)
}

// undecided refuses what comes after a round's decision.
func (s *Service) undecided(x *round) error {
	if err := s.decidable(x); err != nil {
		return err
	}
	decided, err := x.decision()
	switch {
	case err != nil:
		return err
	case decided != nil && decided.Outcome == task.Aborted:
		return fmt.Errorf("%s: %w", decided.Reason, errs.ErrAborted)
	case decided != nil:
		return fmt.Errorf("round %d of %s: %w", x.Round, x.Task, errs.ErrNotInCohort)
	}
	return nil
}

// acceptable says whether a new deposit may be stored.
func (s *Service) acceptable(r storage.Reader, t *task.Task, x *round, d *task.Deposit, in *pb.DepositRequest) error {
	if err := s.undecided(x); err != nil {
		return err
	}
	spec, _, err := specOf(r, x.TaskDigest, x.Round)
	if err != nil {
		return err
	}
	if d.ModelDigest != spec.ModelDigest {
		return fmt.Errorf("round %d starts from model %s, the deposit from %s: %w", x.Round, spec.ModelDigest.Short(), d.ModelDigest.Short(), errs.ErrModelMismatch)
	}
	shape, err := t.Shape(spec.Kind)
	if err != nil {
		return err
	}
	if most := uint32(shape.Scheme.Weight); d.Weight > most || (d.Weight == 0 && most != 1) {
		return fmt.Errorf("a deposit with weight %d, 1 to %d are allowed: %w", d.Weight, most, errs.ErrWeight)
	}
	n := 0
	if err := r.List(bucketDeposit, d.Spec.String()+"/"+d.Client+"/", func(string, []byte) error { n++; return nil }); err != nil {
		return err
	}
	if n >= MaxDeposits {
		return fmt.Errorf("%s made %d deposits in this round: %w", d.Client, n, errs.ErrDeposit)
	}
	k, _, err := s.keys(t, x.Round)
	if err != nil {
		return err
	}
	seed, err := openDeposit(k, t, in)
	clear(seed[:])
	return err
}

// openDeposit opens one sealed key: 32 bytes in sum-key, nothing in shared-key.
func openDeposit(k *envelope.Key, t *task.Task, in *pb.DepositRequest) (seed ckks.Seed, err error) {
	b, err := k.Open(envelope.Deposit, in.Deposit, in.Sealed)
	if err != nil {
		return seed, fmt.Errorf("%v: %w", err, errs.ErrDeposit)
	}
	defer clear(b)
	want := len(seed)
	if t.Mode == params.SharedKey {
		want = 0
	}
	if len(b) != want {
		return seed, fmt.Errorf("a key of %d bytes, want %d: %w", len(b), want, errs.ErrDeposit)
	}
	copy(seed[:], b)
	return seed, nil
}

// factsOf gathers what the key service knows of a round's clients.
func factsOf(r storage.Reader, spec task.Digest, x *round) (*Facts, error) {
	f := &Facts{Excluded: x.Excluded}
	prefix := spec.String() + "/"
	if err := r.List(bucketDeposit, prefix, func(_ string, b []byte) error {
		var in pb.DepositRequest
		if err := proto.Unmarshal(b, &in); err != nil {
			return fmt.Errorf("a deposit: %w", errs.ErrStorage)
		}
		d, err := task.ParseDeposit(in.Deposit)
		if err != nil {
			return err
		}
		f.Deposits = append(f.Deposits, *d)
		return nil
	}); err != nil {
		return nil, err
	}
	return f, r.List(bucketAnnounced, prefix, func(key string, _ []byte) error {
		f.Announced = append(f.Announced, key[len(prefix):])
		return nil
	})
}
