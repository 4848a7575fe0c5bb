package kms

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// maxReason bounds the text of an abort.
const maxReason = 200

// Decide answers a signed manifest with the decision. What the cohort needs to
// open its sum is sealed to each of its clients and stored in the same
// transaction; the answer itself carries no key material. Refusals are
// recorded before they are answered.
func (s *Service) Decide(ctx context.Context, in *pb.DecideRequest) (*pb.DecisionReply, error) {
	object := task.Signed{Bytes: in.Object, Signature: in.Signature}
	m, failed := task.ParseManifest(object.Bytes)
	if failed != nil && !errors.Is(failed, errs.ErrManifest) {
		return nil, failed
	}
	var spec task.Digest
	if m != nil {
		spec = m.Spec
	} else if spec, failed = specOfManifest(object.Bytes, failed); failed != nil && spec == (task.Digest{}) {
		return nil, failed
	}
	return s.decide(ctx, spec, func(w storage.Writer, t *task.Task, x *round) (*task.Decision, error) {
		if err := object.Verify(t.Aggregator); err != nil {
			return nil, err
		}
		if failed != nil {
			return nil, failed
		}
		before, err := x.decision()
		if err != nil {
			return nil, err
		}
		roundSpec, _, err := specOf(w, x.TaskDigest, x.Round)
		if err != nil {
			return nil, err
		}
		facts, err := factsOf(w, spec, x)
		if err != nil {
			return nil, err
		}
		d, err := s.c.Gate.Decide(before, t, roundSpec, facts, m)
		if err != nil || before != nil {
			return d, err
		}
		proven, err := provenCanaries(t, roundSpec, m, in.Canaries)
		if err != nil {
			return nil, err
		}
		x.Manifest, x.ManifestBy, x.Missing = object.Bytes, object.Signature, facts.Missing(m)
		return d, s.release(w, t, x, m, proven, d)
	})
}

// specOfManifest reads the specification's digest of a manifest whose entries
// are refused, so that the refusal can be recorded with its round.
func specOfManifest(b []byte, refused error) (task.Digest, error) {
	const tag = 4 + len("cryptflow/v1/manifest")
	if len(b) < tag+32 {
		return task.Digest{}, refused
	}
	return task.Digest(b[tag : tag+32]), refused
}

// Abort gives a round up, unless it was released.
func (s *Service) Abort(ctx context.Context, in *pb.AbortRound) (*pb.DecisionReply, error) {
	spec, err := digest(in.Spec)
	if err != nil {
		return nil, err
	}
	reason := in.Reason
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") // it may end within a letter
	}
	return s.decide(ctx, spec, func(_ storage.Writer, t *task.Task, x *round) (*task.Decision, error) {
		if err := s.askedToAbort(ctx, t, x, spec, in); err != nil {
			return nil, err
		}
		before, err := x.decision()
		if err != nil {
			return nil, err
		}
		return s.c.Gate.Abort(before, spec, reason)
	})
}

// decide runs one attempt to decide a round: what it answers is persisted and
// recorded first, a refusal too.
func (s *Service) decide(ctx context.Context, spec task.Digest, attempt func(storage.Writer, *task.Task, *round) (*task.Decision, error)) (*pb.DecisionReply, error) {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var reply *pb.DecisionReply
	var x *round
	fresh := false
	err = s.update(ctx, func(w storage.Writer) error {
		if x, err = roundOf(w, spec); err != nil {
			return err
		}
		t, _, err := taskOf(w, x.Task)
		if err != nil {
			return err
		}
		if err := s.decidable(x); err != nil {
			return err
		}
		fresh = x.Decision == nil
		d, err := attempt(w, t, x)
		if err != nil {
			return err
		}
		if fresh {
			if err := s.persist(w, x, d, caller.String()); err != nil {
				return err
			}
		}
		reply, err = s.reply(w, x, 0)
		return err
	})
	var bad *unfit
	if errors.As(err, &bad) {
		return &pb.DecisionReply{Refused: bad.names()}, s.exclude(ctx, spec, caller.String(), bad)
	}
	if err != nil {
		return nil, s.refuse(ctx, spec, caller.String(), err)
	}
	if fresh {
		if len(x.Missing) > 0 {
			s.c.Noticed(NoticedMissing, len(x.Missing))
			s.c.Log.Warn("clients announced themselves and did not commit", "task", x.Task, "round", x.Round, "clients", some(x.Missing))
		}
		err = errors.Join(s.vault.destroy(keyName(x.TaskDigest, x.Round)), s.scrub(ctx))
	}
	return reply, err
}

// persist stores a decision, drops every sealed key of the round and records
// what was decided.
func (s *Service) persist(w storage.Writer, x *round, d *task.Decision, by string) error {
	object := task.Sign(d, s.c.Signing)
	x.Decision, x.Signature, x.Decided = object.Bytes, object.Signature, s.c.Now()
	r := audit.Record{Event: audit.Released, Task: x.Task, Round: x.Round, Spec: d.Spec.String(), By: by}
	if d.Outcome == task.Released {
		m, err := task.ParseManifest(x.Manifest)
		if err != nil {
			return err
		}
		r.Manifest, r.Detail, r.Missing = d.Manifest.String(), object.Digest().String(), x.Missing
		for _, e := range m.Entries {
			r.Clients = append(r.Clients, e.Client)
		}
	} else {
		r.Event, r.Detail = audit.Aborted, object.Digest().String()
		x.Destroyed = true
		if err := w.Delete(bucketOpen, d.Spec.String()); err != nil {
			return err
		}
	}
	if err := forgetDeposits(w, d.Spec); err != nil {
		return err
	}
	var err error
	if x.Record, err = s.record(w, r); err != nil {
		return err
	}
	return putRound(w, d.Spec, x)
}

// forgetDeposits drops the sealed keys and keeps who deposited what.
func forgetDeposits(w storage.Writer, spec task.Digest) error {
	keep := map[string]*pb.DepositRequest{}
	if err := w.List(bucketDeposit, spec.String()+"/", func(key string, b []byte) error {
		var in pb.DepositRequest
		if err := proto.Unmarshal(b, &in); err != nil {
			return fmt.Errorf("a deposit: %w", errs.ErrStorage)
		}
		keep[key] = &pb.DepositRequest{Deposit: in.Deposit}
		return nil
	}); err != nil {
		return err
	}
	for key, in := range keep {
		if err := putProto(w, bucketDeposit, key, in); err != nil {
			return err
		}
	}
	return nil
}

// unfit are the clients because of whom a set cannot be decided, and why. The set
// may be decided without them.
type unfit map[string]error

func (u *unfit) add(client string, why error) {
	if *u == nil {
		*u = unfit{}
	}
	(*u)[client] = why
}

func (u *unfit) names() []string { return slices.Sorted(maps.Keys(*u)) }

func (u *unfit) Error() string {
	var out []string
	for _, name := range u.names() {
		out = append(out, fmt.Sprintf("%s (%s)", name, errs.Format((*u)[name])))
	}
	return "the set cannot be decided with " + some(out)
}

func (*unfit) Unwrap() error { return errs.ErrManifest }

// exclude records that clients were refused by name, whoever was to blame for
// them: the set can be decided without them.
func (s *Service) exclude(ctx context.Context, spec task.Digest, by string, bad *unfit) error {
	s.c.Noticed(NoticedExcluded, len(*bad))
	s.c.Log.Warn("clients are refused in a round", "spec", spec.Short(), "clients", some(bad.names()))
	return s.update(ctx, func(w storage.Writer) error {
		x, err := roundOf(w, spec)
		if err != nil {
			return err
		}
		all := map[string]bool{}
		for _, name := range append(bad.names(), x.Excluded...) {
			all[name] = true
		}
		x.Excluded = slices.Sorted(maps.Keys(all))
		if _, err := s.record(w, audit.Record{
			Event: audit.Excluded, Task: x.Task, Round: x.Round, Spec: spec.String(), By: by, Clients: bad.names(), Detail: bad.Error(),
		}); err != nil {
			return err
		}
		return putRound(w, spec, x)
	})
}

// refuse records a refusal of the gate and returns it. No entry, no answer. Of
// one round the first maxRefusals are recorded; those that follow are answered
// in the same words.
func (s *Service) refuse(ctx context.Context, spec task.Digest, by string, refused error) error {
	if !errors.Is(refused, errs.ErrManifest) && !errors.Is(refused, errs.ErrDecided) && !errors.Is(refused, errs.ErrSignature) {
		return refused
	}
	return errors.Join(s.update(ctx, func(w storage.Writer) error {
		x, err := roundOf(w, spec)
		if err != nil {
			return err
		}
		if x.Refusals >= maxRefusals {
			return nil
		}
		x.Refusals++
		if _, err := s.record(w, audit.Record{Event: audit.Refused, Task: x.Task, Round: x.Round, Spec: spec.String(), By: by, Detail: errs.Format(refused)}); err != nil {
			return err
		}
		return putRound(w, spec, x)
	}), refused)
}

// release seals what opens the sum to every client of the set, once the
// canaries of each are under its deposited key.
func (s *Service) release(w storage.Writer, t *task.Task, x *round, m *task.Manifest, proven *canaries, d *task.Decision) error {
	scheme, err := t.Scheme()
	if err != nil {
		return err
	}
	k, pair, err := s.keys(t, x.Round)
	if err != nil {
		return err
	}
	defer clear(pair[:])
	seeds := make([]ckks.Seed, len(m.Entries))
	defer clear(seeds)
	replies := make([][]byte, len(m.Entries))
	var bad unfit
	for i, e := range m.Entries {
		var in pb.DepositRequest
		ok, err := getProto(w, bucketDeposit, depositKey(m.Spec, e.Client, e.Root), &in)
		if err != nil || !ok {
			return errors.Join(err, fmt.Errorf("the deposit of %s: %w", e.Client, errs.ErrManifest))
		}
		if seeds[i], err = openDeposit(k, t, &in); err == nil {
			err = proven.check(i, m, seeds[i])
		}
		switch {
		case errors.Is(err, errs.ErrDeposit):
			bad.add(e.Client, err)
			continue
		case err != nil:
			return err // it is nobody's fault
		}
		replies[i] = in.ReplyKey
	}
	if len(bad) > 0 {
		return &bad
	}
	rel := &task.Release{Spec: m.Spec, Manifest: d.Manifest, Mode: t.Mode, Terms: d.Terms, Weights: d.Weights, Squares: d.Squares}
	if t.Mode == params.SumKey {
		rel.Secret, err = ckks.SumSecrets(scheme.Preset, m.Spec, seeds)
	} else {
		roundSpec, _, bad := specOf(w, x.TaskDigest, x.Round)
		if bad != nil {
			return bad
		}
		var public []byte
		if rel.Secret, public, err = ckks.GenerateKeyPair(scheme.Preset, roundSpec.Nonce, pair); err == nil && sha256.Sum256(public) != roundSpec.PublicKey {
			err = fmt.Errorf("the round's key pair is not that of its specification: %w", errs.ErrStorage)
		}
	}
	if err != nil {
		return err
	}
	message := rel.Canonical()
	defer clear(message)
	defer clear(rel.Secret)
	for i, e := range m.Entries {
		to := task.Addressee{Spec: m.Spec, Manifest: d.Manifest, Client: e.Client}
		sealed, err := envelope.Seal(replies[i], envelope.Release, to.Canonical(), message)
		if err != nil {
			bad.add(e.Client, err)
			continue
		}
		if err := w.Put(bucketRelease, m.Spec.String()+"/"+e.Client, sealed); err != nil {
			return err
		}
	}
	if len(bad) > 0 {
		return &bad
	}
	return nil
}

// reply is a decision with its proof.
func (s *Service) reply(r storage.Reader, x *round, known int64) (*pb.DecisionReply, error) {
	if x.Decision == nil {
		return &pb.DecisionReply{}, nil
	}
	out := &pb.DecisionReply{
		Decision: &pb.Signed{Object: x.Decision, Signature: x.Signature}, KeysDestroyed: x.Destroyed, Missing: x.Missing,
	}
	if x.Verdict != nil {
		out.Verdict = &pb.Signed{Object: x.Verdict, Signature: x.VerdictBy}
	}
	var err error
	if out.Proof, err = s.proof(r, x.Record, known); err == nil && x.DestroyedRecord > 0 {
		out.Destroyed, err = s.proof(r, x.DestroyedRecord, known)
	}
	return out, err
}

// GetDecision returns what was decided, if anything was, or ErrLost when nothing
// ever will be.
func (s *Service) GetDecision(ctx context.Context, in *pb.SpecId) (out *pb.DecisionReply, err error) {
	spec, err := digest(in.Spec)
	if err != nil {
		return nil, err
	}
	return out, s.view(ctx, func(r storage.Reader) error {
		x, err := s.member(ctx, r, spec)
		if err != nil {
			return err
		}
		if err := s.decidable(x); err != nil {
			return err
		}
		out, err = s.reply(r, x, in.KnownSize)
		return err
	})
}

// member returns a round that the caller may know of.
func (s *Service) member(ctx context.Context, r storage.Reader, spec task.Digest) (*round, error) {
	x, _, err := s.memberOf(ctx, r, spec)
	return x, err
}

// memberOf is member, with the round's task.
func (s *Service) memberOf(ctx context.Context, r storage.Reader, spec task.Digest) (*round, *task.Task, error) {
	x, err := roundOf(r, spec)
	if err != nil {
		return nil, nil, err
	}
	t, _, err := taskOf(r, x.Task)
	if err != nil {
		return nil, nil, err
	}
	return x, t, enrolled(ctx, t)
}

// FetchRelease returns the sealed release of a client of the cohort.
func (s *Service) FetchRelease(ctx context.Context, in *pb.ReleaseRequest) (out *pb.ReleaseReply, err error) {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := digest(in.Spec)
	if err != nil {
		return nil, err
	}
	return out, s.view(ctx, func(r storage.Reader) error {
		x, err := s.member(ctx, r, spec)
		if err != nil {
			return err
		}
		d, err := x.decision()
		switch {
		case err != nil:
			return err
		case d == nil:
			return fmt.Errorf("round %d of %s is undecided: %w", x.Round, x.Task, errs.ErrState)
		case d.Outcome == task.Aborted:
			return fmt.Errorf("%s: %w", d.Reason, errs.ErrAborted)
		}
		m, err := task.ParseManifest(x.Manifest)
		if err != nil {
			return err
		}
		if slices.Contains(x.Excluded, caller.Name) {
			return fmt.Errorf("round %d of %s: the key service refused this client's contribution by name; the audit log says why: %w",
				x.Round, x.Task, errs.ErrNotInCohort)
		}
		if !contains(m, caller.Name) {
			return fmt.Errorf("round %d of %s: %w", x.Round, x.Task, errs.ErrNotInCohort)
		}
		if x.Destroyed {
			return fmt.Errorf("round %d of %s: %w", x.Round, x.Task, errs.ErrKeysDestroyed)
		}
		out = &pb.ReleaseReply{
			Decision: &pb.Signed{Object: x.Decision, Signature: x.Signature},
			Manifest: &pb.Signed{Object: x.Manifest, Signature: x.ManifestBy},
		}
		if out.Sealed, err = r.Get(bucketRelease, spec.String()+"/"+caller.Name); err != nil {
			return err
		}
		out.Proof, err = s.proof(r, x.Record, in.KnownSize)
		return err
	})
}

func contains(m *task.Manifest, client string) bool {
	for _, e := range m.Entries {
		if e.Client == client {
			return true
		}
	}
	return false
}

// CloseRound takes the signed result of a released round: the next round's
// model follows from it.
func (s *Service) CloseRound(ctx context.Context, in *pb.Signed) (*pb.Empty, error) {
	object := unsigned(in)
	result, err := task.ParseResult(object.Bytes)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &pb.Empty{}, s.update(ctx, func(w storage.Writer) error {
		x, err := roundOf(w, result.Spec)
		if err != nil {
			return err
		}
		t, _, err := taskOf(w, x.Task)
		if err != nil {
			return err
		}
		if err := object.Verify(t.Aggregator); err != nil {
			return err
		}
		if err := s.decidable(x); err != nil {
			return err
		}
		d, err := x.decision()
		switch {
		case err != nil:
			return err
		case d == nil || d.Outcome != task.Released || d.Manifest != result.Manifest || d.Terms != result.Terms:
			return fmt.Errorf("a result of what was not released: %w", errs.ErrState)
		case x.Result != nil && bytes.Equal(x.Result, object.Bytes):
			return nil
		case x.Result != nil:
			return fmt.Errorf("round %d of %s has another result: %w", x.Round, x.Task, errs.ErrDecided)
		}
		x.Result, x.Closed = object.Bytes, s.c.Now()
		if err := s.compareReports(w, result.Spec, x); err != nil {
			return err
		}
		if err := putRound(w, result.Spec, x); err != nil {
			return err
		}
		_, err = s.record(w, audit.Record{Event: audit.Published, Task: x.Task, Round: x.Round, Spec: result.Spec.String(), Detail: object.Digest().String()})
		return err
	})
}
