package kms

import (
	"context"
	"fmt"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// why a round is lost.
const keysGone = "its keys are gone and no decision is recorded"

// lose closes a round that can never be decided. A key is destroyed only after
// the decision is durable; a round that has neither belongs to a ledger that
// forgot its decision, and a signed abort could contradict it.
func (s *Service) lose(w storage.Writer, spec task.Digest, x *round, why string) error {
	if x.Lost != "" || x.Decision != nil {
		return nil
	}
	x.Lost = why
	s.c.Log.Error("a round is lost", "task", x.Task, "round", x.Round, "reason", why)
	if err := w.Delete(bucketOpen, spec.String()); err != nil {
		return err
	}
	if err := forgetDeposits(w, spec); err != nil {
		return err
	}
	if _, err := s.record(w, audit.Record{
		Event: audit.Lost, Task: x.Task, Round: x.Round, Spec: spec.String(), Detail: why,
	}); err != nil {
		return err
	}
	return putRound(w, spec, x)
}

// decidable returns ErrLost unless the round was decided or its key exists.
func (s *Service) decidable(x *round) error {
	switch {
	case x.Decision != nil:
		return nil
	case x.Lost != "":
		return fmt.Errorf("round %d of %s: %s: %w", x.Round, x.Task, x.Lost, errs.ErrLost)
	case !s.vault.has(keyName(x.TaskDigest, x.Round)):
		return fmt.Errorf("round %d of %s: %s: %w", x.Round, x.Task, keysGone, errs.ErrLost)
	}
	return nil
}

// findLost closes the open rounds whose keys are gone.
func (s *Service) findLost(ctx context.Context) error {
	return s.update(ctx, func(w storage.Writer) error {
		var open []task.Digest
		if err := w.List(bucketOpen, "", func(key string, _ []byte) error {
			spec, err := task.ParseDigest(key)
			open = append(open, spec)
			return err
		}); err != nil {
			return err
		}
		for _, spec := range open {
			x, err := roundOf(w, spec)
			if err != nil {
				return err
			}
			if s.decidable(x) == nil {
				continue
			}
			if err := s.lose(w, spec, x, keysGone); err != nil {
				return err
			}
		}
		return nil
	})
}

// bucketClosed has the tasks that were given up, by digest, and why.
const bucketClosed = "kms/closed"

// closed returns ErrLost for a task that was given up.
func closed(r storage.Reader, t *task.Task) error {
	why, err := r.Get(bucketClosed, task.DigestOf(t).String())
	if err != nil || why == nil {
		return err
	}
	return fmt.Errorf("%s: %s: %w", t.Name, why, errs.ErrLost)
}

// Recover makes a restored ledger serve again. Nothing that it might have
// forgotten can be contradicted afterwards: every task is given up, every open
// round is lost, and the epoch begins anew after all that went before.
func Recover(ctx context.Context, c Config) (tasks int, err error) {
	s, found, err := prepare(c)
	if err != nil {
		return 0, err
	}
	const why = "the key service was restored from a backup"
	err = s.c.Ledger.Update(ctx, func(w storage.Writer) error {
		last, err := audit.Epoch(w)
		if err != nil {
			return err
		}
		if s.epoch.check(w, last, found) == nil {
			return fmt.Errorf("this ledger is not older than its epoch; nothing is to be recovered: %w", errs.ErrState)
		}
		names := map[string]task.Digest{}
		var open []task.Digest
		if err := w.List(bucketTask, "", func(name string, _ []byte) error {
			names[name] = task.Digest{}
			return nil
		}); err != nil {
			return err
		}
		if err := w.List(bucketOpen, "", func(key string, _ []byte) error {
			spec, err := task.ParseDigest(key)
			open = append(open, spec)
			return err
		}); err != nil {
			return err
		}
		for name := range names {
			t, _, err := taskOf(w, name)
			if err != nil {
				return err
			}
			if err := w.Put(bucketClosed, task.DigestOf(t).String(), []byte(why)); err != nil {
				return err
			}
		}
		tasks = len(names)
		for _, spec := range open {
			x, err := roundOf(w, spec)
			if err != nil {
				return err
			}
			if err := s.lose(w, spec, x, why); err != nil {
				return err
			}
		}
		next := max(last, s.epoch.mark.Epoch) + 1
		if err := audit.SetEpoch(w, next); err != nil {
			return err
		}
		if _, err := s.record(w, audit.Record{
			Event: audit.Recovered, Detail: fmt.Sprintf("%d tasks were given up: %s", tasks, why),
		}); err != nil {
			return err
		}
		size, err := audit.Size(w)
		if err != nil {
			return err
		}
		root, err := audit.Root(w, size)
		if err != nil {
			return err
		}
		// Before the commit: should that fail, the ledger ends before the mark and
		// is still refused.
		return s.epoch.write(epochMark{Epoch: next, Size: size, Root: root, Since: next})
	})
	if err != nil {
		return 0, err
	}
	return tasks, s.forget(ctx, map[string]bool{})
}
