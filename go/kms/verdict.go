package kms

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// judge draws the verdict of a released round, if the reports allow one.
func (s *Service) judge(
	w storage.Writer, spec task.Digest, x *round, reports []task.Report, cohort int, timeIsUp bool,
) error {
	if x.Verdict != nil {
		return nil
	}
	best, agree := elect(x, reports, cohort, timeIsUp)
	if len(agree) == 0 {
		return nil
	}
	if x.Settled && best.Opening == task.NotOpened {
		return nil // the next round has been opened from the result
	}
	n := len(agree)
	v := &task.Verdict{
		Spec: spec, Opening: best.Opening, Result: best.Result, Sums: best.Sums, Agree: uint32(n), Cohort: uint32(cohort),
	}
	object := task.Sign(v, s.c.Signing)
	event := audit.Opened
	if v.Opening == task.NotOpened {
		event = audit.Failed
		s.c.Noticed(NoticedFailed, 1)
		s.c.Log.Error("a released sum did not open for its cohort",
			"task", x.Task, "round", x.Round, "clients", n, "of", cohort)
	}
	var err error
	x.Verdict, x.VerdictBy = object.Bytes, object.Signature
	x.VerdictRecord, err = s.record(w, audit.Record{
		Event: event, Task: x.Task, Round: x.Round, Spec: spec.String(), Clients: agree, Detail: object.Digest().String(),
	})
	return err
}

// elect finds what the reports say of a sum, and the clients that say so. Nobody
// does before more than half of the cohort agrees, everybody has reported, or
// time is up.
//
// Without such a majority a sum counts as not opened when no larger number of
// clients opened the published result. That less than half opened it is said only
// once everybody has reported: otherwise the first to report would speak for all.
func elect(x *round, reports []task.Report, cohort int, timeIsUp bool) (best task.Report, agree []string) {
	votes := map[task.Report][]string{}
	for _, r := range reports {
		key := task.Report{Opening: r.Opening, Result: r.Result, Sums: r.Sums}
		if r.Opening == task.NotOpened {
			key.Result = task.Digest{} // whatever they could not open
		}
		votes[key] = append(votes[key], r.Client)
	}
	complete := len(reports) >= cohort && x.Result != nil
	published := task.Digest(sha256.Sum256(x.Result))
	for vote, clients := range votes {
		switch {
		case 2*len(clients) > cohort:
			slices.Sort(clients)
			return vote, clients
		case !timeIsUp && !complete:
		case vote.Opening == task.Opened && (x.Result == nil || vote.Result != published):
			// A result that nobody published: no round could follow from it.
		case len(clients) > len(agree) || len(clients) == len(agree) && precedes(vote, best):
			best, agree = vote, clients
		}
	}
	if best.Opening == task.Opened && !complete {
		return task.Report{}, nil
	}
	slices.Sort(agree)
	return best, agree
}

// precedes orders equal numbers of votes: that it did not open comes first, since
// nobody applies it.
func precedes(a, b task.Report) bool {
	if a.Opening != b.Opening {
		return a.Opening == task.NotOpened
	}
	return bytes.Compare(a.Sums[:], b.Sums[:]) < 0
}

// settled is what became of a released round, and the result that its model
// follows from. It returns ErrPending while reports may still come.
func (s *Service) settled(x *round) (task.Opening, task.Digest, error) {
	v, err := x.verdict()
	switch {
	case err != nil:
		return 0, task.Digest{}, err
	case v != nil:
		return v.Opening, v.Result, nil
	case x.Result == nil:
		return 0, task.Digest{}, fmt.Errorf("round %d of %s has no result yet: %w", x.Round, x.Task, errs.ErrState)
	case !s.due(x):
		return 0, task.Digest{}, fmt.Errorf("the cohort of round %d of %s is still reporting: %w",
			x.Round, x.Task, errs.ErrPending)
	}
	return task.Opened, sha256.Sum256(x.Result), nil
}

// due says whether a round with a result waits for no more reports.
func (s *Service) due(x *round) bool {
	return x.Settled || x.Destroyed || x.Closed.IsZero() || s.c.Now().Sub(x.Closed) >= s.c.VerdictWait
}

// settle fixes what became of a round whose cohort had its time, before the round
// after it opens. It is a transaction of its own: what it draws stands even when
// the next round is then refused.
func (s *Service) settle(w storage.Writer, t *task.Task, n uint32) error {
	before, _, err := specOf(w, task.DigestOf(t).String(), n)
	if err != nil || before == nil {
		return err
	}
	spec := task.DigestOf(before)
	x, err := roundOf(w, spec)
	if err != nil || x.Manifest == nil || x.Result == nil || x.Verdict != nil || x.Settled || !s.due(x) {
		return err
	}
	m, err := task.ParseManifest(x.Manifest)
	if err != nil {
		return err
	}
	reports, err := reportsOf(w, spec)
	if err != nil {
		return err
	}
	if err := s.judge(w, spec, x, reports, len(m.Entries), true); err != nil {
		return err
	}
	x.Settled = true
	return putRound(w, spec, x)
}
