package aggregator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

// start runs a task's engine unless it runs.
func (s *Service) start(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engines[name] != nil || s.ctx.Err() != nil {
		return
	}
	wake := make(chan struct{}, 1)
	s.engines[name] = wake
	s.running.Go(func() { s.run(name, wake) })
}

// run steps a task through its rounds until nothing is left to do. Every step
// reads the ledger and changes it by compare-and-set, so that a restart, or a
// step taken twice, goes on where the last one ended.
func (s *Service) run(name string, wake <-chan struct{}) {
	for {
		again, wait, err := s.step(s.ctx, name)
		switch {
		case s.ctx.Err() != nil:
			return
		case errors.Is(err, errs.ErrPending):
			wait = s.c.Poll / 10 // the key service waited already
		case err != nil:
			s.c.Log.Warn("a round waits", "task", name, "code", errs.Find(err).Code, "error", err.Error())
			wait = s.c.Poll
		case again:
			s.signal(name)
			continue
		case wait == 0:
			wait = time.Hour // until something is signalled
		}
		timer := time.NewTimer(wait)
		select {
		case <-s.ctx.Done():
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// step does the next thing a task needs. It says whether to look again at
// once, or else how long nothing happens by itself.
func (s *Service) step(ctx context.Context, name string) (again bool, wait time.Duration, err error) {
	var t *task.Task
	var row *taskRow
	var x *roundRow
	if err := s.c.Ledger.View(ctx, func(r storage.Reader) (err error) {
		if t, row, err = taskOf(r, name); err != nil {
			return err
		}
		x, err = getRow[roundRow](r, bucketRound, roundKey(name, row.Round))
		if err == nil && x == nil {
			err = fmt.Errorf("round %d of %s: %w", row.Round, name, errs.ErrStorage)
		}
		return err
	}); err != nil {
		return false, 0, err
	}
	p := &place{task: t, row: row, n: row.Round, round: x}
	if row.Ended != "" && x.State < task.RoundSealed {
		return true, 0, s.abort(ctx, p, row.Ended)
	}
	switch x.State {
	case task.RoundCreated:
		if row.creating() {
			return false, 0, nil // until the model is stored
		}
		return true, 0, s.open(ctx, p)
	case task.RoundKeyed:
		if again, wait, err = s.watch(ctx, p); again || err != nil {
			return again, 0, err
		}
	case task.RoundCollecting:
		full := min(uint32(len(t.Members)), t.MaxClients)
		left := x.Deadline.Sub(s.c.Now())
		switch {
		case x.Committed < full && left > 0:
			return false, left, nil
		case x.Committed >= t.MinCohort:
			return true, 0, s.seal(ctx, p)
		}
		return true, 0, s.abort(ctx, p, fmt.Sprintf("%d of %d clients at the deadline, at least %d are needed", x.Committed, len(t.Members), t.MinCohort))
	case task.RoundSealed:
		return true, 0, s.ask(ctx, p)
	case task.RoundFolding:
		return true, 0, s.publish(ctx, p)
	case task.RoundPublished, task.RoundKeysDestroyed, task.RoundAborted:
		if again, wait, err := s.next(ctx, p); again || wait > 0 || err != nil {
			return again, wait, err
		}
	}
	live, err := s.destroyed(ctx, t)
	if live {
		wait = s.c.Poll
	}
	return false, wait, err
}

// update changes a round if it is still in the state it was read in.
func (s *Service) update(ctx context.Context, p *place, change func(w storage.Writer, row *taskRow, x *roundRow) error) error {
	return s.c.Ledger.Update(ctx, func(w storage.Writer) error {
		_, row, err := taskOf(w, p.task.Name)
		if err != nil {
			return err
		}
		key := roundKey(p.task.Name, p.n)
		x, err := getRow[roundRow](w, bucketRound, key)
		if err != nil {
			return err
		}
		if x == nil || x.State != p.round.State {
			return nil // somebody else was first
		}
		before := x.State
		if err := change(w, row, x); err != nil {
			return err
		}
		if x.State != before {
			s.c.Log.Info("round", "task", p.task.Name, "round", p.n, "state", x.State.String(), "committed", x.Committed, "reason", x.Reason)
		}
		if err := putRow(w, bucketRound, key, x); err != nil {
			return err
		}
		return putRow(w, bucketTask, p.task.Name, row)
	})
}

// open has the key service sign the round's specification.
func (s *Service) open(ctx context.Context, p *place) error {
	request := &task.OpenRequest{Task: task.DigestOf(p.task), Round: p.n, Model: task.Digest(p.row.Model)}
	reply, err := s.c.Keys.OpenRound(ctx, &pb.OpenRequest{
		Task: p.task.Name, Round: p.n, Model: p.row.Model, Signature: task.Sign(request, s.c.Signing).Signature,
	})
	err = rpc.FromStatus(err, "key service")
	switch {
	case errors.Is(err, errs.ErrFailed):
		return s.revert(ctx, p, p.n-1)
	case errors.Is(err, errs.ErrLost):
		return s.lose(ctx, p, err)
	case err != nil:
		return err
	}
	object := task.Signed{Bytes: reply.Spec.GetObject(), Signature: reply.Spec.GetSignature()}
	if err := object.Verify(p.task.KMS); err != nil {
		return err
	}
	spec, err := task.ParseRoundSpec(object.Bytes)
	if err != nil {
		return err
	}
	if err := spec.Follows(p.task); err != nil {
		return err
	}
	if spec.Round != p.n || spec.ModelDigest != task.Digest(p.row.Model) {
		return fmt.Errorf("the key service signed another round: %w", errs.ErrSpec)
	}
	return s.update(ctx, p, func(w storage.Writer, _ *taskRow, x *roundRow) error {
		x.Spec, x.SpecBy = object.Bytes, object.Signature
		if err := putRow(w, bucketSpec, object.Digest().String(), &specRow{Task: p.task.Name, Round: p.n}); err != nil {
			return err
		}
		return x.move(task.RoundKeyed)
	})
}

// seal fixes the set: what was committed when the ledger says so.
func (s *Service) seal(ctx context.Context, p *place) error {
	err := s.update(ctx, p, func(w storage.Writer, _ *taskRow, x *roundRow) error {
		if err := x.list(w); err != nil {
			return err
		}
		return x.move(task.RoundSealed)
	})
	if err == nil {
		s.dropUploads(p.round.spec())
	}
	return err
}

// list makes the round's manifest of what was committed.
func (x *roundRow) list(r storage.Reader) error {
	spec, err := task.ParseRoundSpec(x.Spec)
	if err != nil {
		return err
	}
	m := &task.Manifest{Spec: x.spec()}
	prefix := commitKey(m.Spec, "")
	if err := eachCommit(r, m.Spec, func(key string, c *commitRow) error {
		m.Entries = append(m.Entries, task.Entry{
			Client: key[len(prefix):], Root: task.Digest(c.Root), ModelDigest: spec.ModelDigest, Weight: c.Weight,
		})
		return nil
	}); err != nil {
		return err
	}
	x.Manifest, x.Committed = m.Canonical(), uint32(len(m.Entries))
	return nil
}

// eachCommit calls f for every committed contribution, by client ascending.
func eachCommit(r storage.Reader, spec task.Digest, f func(key string, c *commitRow) error) error {
	var keys []string
	if err := r.List(bucketCommit, commitKey(spec, ""), func(key string, _ []byte) error {
		keys = append(keys, key)
		return nil
	}); err != nil {
		return err
	}
	for _, key := range keys {
		c, err := getRow[commitRow](r, bucketCommit, key)
		if err != nil {
			return err
		}
		if err := f(key, c); err != nil {
			return err
		}
	}
	return nil
}

// maxAttempts is how often a set is presented that the key service can neither
// decide nor refuse, before the round is given up.
const maxAttempts = 10

// ask presents the manifest to the key service. Clients that it refuses by name
// leave the set; any other refusal ends the round, because a refused set cannot
// become another one.
func (s *Service) ask(ctx context.Context, p *place) error {
	m := task.Signed{Bytes: p.round.Manifest}
	m.Signature = signBytes(s.c.Signing, m.Bytes)
	canaries, damaged, err := s.canaries(ctx, p)
	switch {
	case err != nil:
		return err
	case len(damaged) > 0:
		return s.leaveOut(ctx, p, damaged)
	}
	reply, err := s.c.Keys.Decide(ctx, &pb.DecideRequest{Object: m.Bytes, Signature: m.Signature, Canaries: canaries})
	err = rpc.FromStatus(err, "key service")
	switch {
	case errors.Is(err, errs.ErrManifest):
		return s.abort(ctx, p, err.Error())
	case errors.Is(err, errs.ErrDecided):
		return s.abort(ctx, p, "the key service had aborted the round")
	case err != nil && errs.Find(err).Kind != errs.Unavailable:
		return s.attempted(ctx, p, err)
	case err != nil:
		return err
	case len(reply.Refused) > 0:
		return s.leaveOut(ctx, p, reply.Refused)
	}
	d, err := s.decision(p, reply)
	if err != nil {
		return err
	}
	if d.Outcome != task.Released || d.Manifest != m.Digest() {
		return fmt.Errorf("the key service decided on another set: %w", errs.ErrDecided)
	}
	return s.update(ctx, p, func(_ storage.Writer, _ *taskRow, x *roundRow) error {
		x.Decision, x.DecidedBy, x.Missing = reply.Decision.Object, reply.Decision.Signature, reply.Missing
		return x.move(task.RoundFolding)
	})
}

// attempted counts a decision that failed, and gives the round up after many.
func (s *Service) attempted(ctx context.Context, p *place, failed error) error {
	if errors.Is(failed, errs.ErrLost) {
		return s.lose(ctx, p, failed)
	}
	if p.round.Attempts+1 >= maxAttempts {
		return s.abort(ctx, p,
			fmt.Sprintf("the key service could not decide the set in %d attempts: %v", maxAttempts, failed))
	}
	return errors.Join(failed, s.update(ctx, p, func(_ storage.Writer, _ *taskRow, x *roundRow) error {
		x.Attempts++
		return nil
	}))
}

// leaveOut takes clients out of the set that the key service refused by name, or
// whose contributions are damaged.
func (s *Service) leaveOut(ctx context.Context, p *place, refused []string) error {
	s.c.Log.Warn("clients are left out of a round",
		"task", p.task.Name, "round", p.n, "clients", strings.Join(refused, ", "))
	left := p.round.Committed
	if err := s.update(ctx, p, func(w storage.Writer, _ *taskRow, x *roundRow) error {
		for _, client := range refused {
			if err := w.Delete(bucketCommit, commitKey(x.spec(), client)); err != nil {
				return err
			}
		}
		before := x.Committed
		if err := x.list(w); err != nil {
			return err
		}
		if left = x.Committed; left == before {
			return fmt.Errorf("the key service refuses clients that are not in the set: %w", errs.ErrManifest)
		}
		x.Refused = append(x.Refused, refused...)
		return nil
	}); err != nil {
		return err
	}
	if left < p.task.MinCohort {
		return s.abort(ctx, p, fmt.Sprintf("the set cannot be decided with %s; %d clients are left, at least %d are needed",
			strings.Join(refused, ", "), left, p.task.MinCohort))
	}
	return nil
}

// decision verifies the key service's word on a round.
func (s *Service) decision(p *place, reply *pb.DecisionReply) (*task.Decision, error) {
	object := task.Signed{Bytes: reply.GetDecision().GetObject(), Signature: reply.GetDecision().GetSignature()}
	if err := object.Verify(p.task.KMS); err != nil {
		return nil, err
	}
	d, err := task.ParseDecision(object.Bytes)
	if err != nil {
		return nil, err
	}
	if d.Spec != p.round.spec() {
		return nil, fmt.Errorf("a decision on another round: %w", errs.ErrDecided)
	}
	return d, nil
}

// abort gives a round up: the key service signs it first, unless no
// specification exists yet.
func (s *Service) abort(ctx context.Context, p *place, reason string) error {
	var reply *pb.DecisionReply
	if p.round.Spec != nil {
		spec := p.round.spec()
		var err error
		request := &task.AbortRequest{Task: task.DigestOf(p.task), Round: p.n, Spec: spec, Reason: reason}
		reply, err = s.c.Keys.Abort(ctx, &pb.AbortRound{
			Spec: spec[:], Reason: reason, Signature: task.Sign(request, s.c.Signing).Signature,
		})
		if err = rpc.FromStatus(err, "key service"); errors.Is(err, errs.ErrLost) {
			return s.lose(ctx, p, err)
		}
		if err != nil {
			return err
		}
		d, err := s.decision(p, reply)
		if err != nil {
			return err
		}
		if d.Outcome != task.Aborted {
			return fmt.Errorf("the key service did not abort the round: %w", errs.ErrDecided)
		}
		reason = d.Reason
	}
	err := s.update(ctx, p, func(_ storage.Writer, _ *taskRow, x *roundRow) error {
		x.Reason = reason
		if reply != nil {
			x.Decision, x.DecidedBy = reply.Decision.Object, reply.Decision.Signature
		}
		return x.move(task.RoundAborted)
	})
	if err == nil && p.round.Spec != nil {
		s.dropUploads(p.round.spec())
		err = s.dropBlobs(ctx, p.round.spec())
	}
	return err
}

// verdictTime is how long the last round's end waits for its cohort's verdict,
// a little longer than a key service does.
const verdictTime = 40 * time.Second

// next tells the key service the result and creates the round that follows. The
// task's last round counts once its cohort said that the sum opened.
func (s *Service) next(ctx context.Context, p *place) (again bool, wait time.Duration, err error) {
	if p.round.Result != nil && !p.round.Closed {
		result := &pb.Signed{Object: p.round.Result, Signature: signBytes(s.c.Signing, p.round.Result)}
		_, err := s.c.Keys.CloseRound(ctx, result)
		err = rpc.FromStatus(err, "key service")
		lost := errors.Is(err, errs.ErrLost)
		if err != nil && !lost {
			return false, 0, err
		}
		return true, 0, s.update(ctx, p, func(_ storage.Writer, row *taskRow, x *roundRow) error {
			if lost && row.Ended == "" {
				row.Ended = fmt.Sprintf("round %d: %v", p.n, err)
			}
			x.Closed, x.ClosedAt = true, s.c.Now()
			return nil
		})
	}
	if p.row.Ended != "" {
		return false, 0, nil
	}
	if p.row.Published >= p.task.Rounds && p.round.Result != nil && p.round.Failed == "" {
		v, err := s.verdict(ctx, p, p.round)
		switch {
		case err != nil:
			return false, 0, err
		case v == nil && s.c.Now().Sub(p.round.ClosedAt) < verdictTime:
			return false, max(s.c.Poll/10, time.Millisecond), nil
		case v != nil && v.Opening == task.NotOpened:
			return true, 0, s.revert(ctx, p, p.n)
		}
	}
	return true, 0, s.update(ctx, p, func(w storage.Writer, row *taskRow, x *roundRow) error {
		switch {
		case row.Published >= p.task.Rounds:
			row.Ended = fmt.Sprintf("all %d rounds are done", p.task.Rounds)
		case row.Round+1 >= task.MaxRounds:
			row.Ended = "too many rounds were aborted"
		default:
			row.Round++
			return putRow(w, bucketRound, roundKey(p.task.Name, row.Round), &roundRow{State: task.RoundCreated})
		}
		return nil
	})
}

// verdict asks the key service what a round's cohort made of its sum; nil while
// that is not known.
func (s *Service) verdict(ctx context.Context, p *place, x *roundRow) (*task.Verdict, error) {
	spec := x.spec()
	reply, err := s.c.Keys.GetDecision(ctx, &pb.SpecId{Spec: spec[:]})
	if err != nil {
		return nil, rpc.FromStatus(err, "key service")
	}
	if reply.Verdict == nil {
		return nil, nil
	}
	object := task.Signed{Bytes: reply.Verdict.Object, Signature: reply.Verdict.Signature}
	if err := object.Verify(p.task.KMS); err != nil {
		return nil, err
	}
	v, err := task.ParseVerdict(object.Bytes)
	if err == nil && v.Spec != spec {
		err = fmt.Errorf("a verdict on another round: %w", errs.ErrDecided)
	}
	return v, err
}

// revert takes back what a published round changed, when the key service signed
// that its sum did not open for most of its cohort: the next round starts from
// the same model.
func (s *Service) revert(ctx context.Context, p *place, n uint32) error {
	key := roundKey(p.task.Name, n)
	var failed *roundRow
	if err := s.c.Ledger.View(ctx, func(r storage.Reader) (err error) {
		failed, err = getRow[roundRow](r, bucketRound, key)
		return err
	}); err != nil {
		return err
	}
	if failed == nil || failed.Result == nil || failed.Failed != "" {
		return fmt.Errorf("the key service says that round %d of %s failed, and it has no result that counts here: %w",
			n, p.task.Name, errs.ErrState)
	}
	v, err := s.verdict(ctx, p, failed)
	if err != nil {
		return err
	}
	if v == nil || v.Opening != task.NotOpened {
		return fmt.Errorf("the key service shows no verdict that round %d of %s failed: %w", n, p.task.Name, errs.ErrState)
	}
	spec, err := task.ParseRoundSpec(failed.Spec)
	if err != nil {
		return err
	}
	s.c.Log.Error("a round's sum did not open and counts for nobody",
		"task", p.task.Name, "round", n, "clients", v.Agree, "of", v.Cohort)
	return s.c.Ledger.Update(ctx, func(w storage.Writer) error {
		_, row, err := taskOf(w, p.task.Name)
		if err != nil {
			return err
		}
		x, err := getRow[roundRow](w, bucketRound, key)
		if err != nil || x == nil || x.Failed != "" {
			return err
		}
		x.Failed = fmt.Sprintf("%d of %d clients could not open the sum", v.Agree, v.Cohort)
		row.Model = spec.ModelDigest[:]
		if spec.Kind == task.KindValues {
			row.Published--
		}
		if err := putRow(w, bucketRound, key, x); err != nil {
			return err
		}
		return putRow(w, bucketTask, p.task.Name, row)
	})
}
