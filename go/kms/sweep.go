package kms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// destroy drops a round's releases. Its other keys went with the decision.
func (s *Service) destroy(w storage.Writer, spec task.Digest, x *round, why string) error {
	for _, bucket := range []string{bucketRelease, bucketReport} {
		var keys []string
		if err := w.List(bucket, spec.String()+"/", func(key string, _ []byte) error {
			keys = append(keys, key)
			return nil
		}); err != nil {
			return err
		}
		for _, key := range keys {
			if err := w.Delete(bucket, key); err != nil {
				return err
			}
		}
	}
	x.Destroyed = true
	if err := w.Delete(bucketOpen, spec.String()); err != nil {
		return err
	}
	var err error
	if x.DestroyedRecord, err = s.record(w, audit.Record{
		Event: audit.KeysDestroyed, Task: x.Task, Round: x.Round, Spec: spec.String(), Detail: why,
	}); err != nil {
		return err
	}
	return putRound(w, spec, x)
}

// began is when the first client took part in a round; zero while none has.
func (r *round) began() time.Time {
	if r.Announced.IsZero() || !r.Deposited.IsZero() && r.Deposited.Before(r.Announced) {
		return r.Deposited
	}
	return r.Announced
}

// Sweep does what time demands: releases end, rounds that nobody decided are
// aborted, and keys of decided rounds that a crash left behind are destroyed.
func (s *Service) Sweep(ctx context.Context) error {
	now := s.c.Now()
	var expired, overdue []task.Digest
	keep := map[string]bool{}
	if err := s.view(ctx, func(r storage.Reader) error {
		return r.List(bucketOpen, "", func(key string, _ []byte) error {
			spec, err := task.ParseDigest(key)
			if err != nil {
				return err
			}
			x, err := roundOf(r, spec)
			if err != nil {
				return err
			}
			t, _, err := taskOf(r, x.Task)
			if err != nil {
				return err
			}
			limit := time.Duration(t.Deadline)*time.Second + s.c.RoundLife
			began := x.began()
			switch {
			case x.Decision == nil && !began.IsZero() && now.Sub(began) > limit:
				overdue = append(overdue, spec)
			case x.Decision != nil && now.Sub(x.Decided) > s.c.ReleaseLife:
				expired = append(expired, spec)
			}
			if x.Decision == nil {
				keep[keyName(x.TaskDigest, x.Round)] = true
			}
			return nil
		})
	}); err != nil {
		return err
	}
	var failed error // at one round; the others are swept all the same
	self := rpc.WithCaller(ctx, identity.Identity{Domain: "self", Role: identity.KMS, Name: s.c.Name})
	for _, spec := range overdue {
		if _, err := s.Abort(self, &pb.AbortRound{Spec: spec[:], Reason: "nobody sealed the round in time"}); err != nil && !errors.Is(err, errs.ErrDecided) {
			failed = errors.Join(failed, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, spec := range expired {
		if err := s.update(ctx, func(w storage.Writer) error {
			x, err := roundOf(w, spec)
			if err != nil || x.Destroyed {
				return err
			}
			return s.destroy(w, spec, x, "the time to fetch the release is over")
		}); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return errors.Join(failed, s.forget(ctx, keep))
}

// forget destroys vault entries of rounds that were decided, or whose
// specification was never signed, before a crash.
func (s *Service) forget(ctx context.Context, keep map[string]bool) error {
	names, err := s.vault.names()
	if err != nil {
		return err
	}
	return s.view(ctx, func(r storage.Reader) error {
		for _, name := range names {
			if keep[name] || len(name) < 73 {
				continue
			}
			var n uint32
			if _, err := fmt.Sscanf(name[65:], "%08x", &n); err != nil {
				continue
			}
			spec, _, err := specOf(r, name[:64], n)
			if err != nil {
				return err
			}
			if spec != nil {
				x, err := roundOf(r, task.DigestOf(spec))
				if err != nil {
					return err
				}
				if x.Decision == nil && x.Lost == "" {
					continue // opened since the list was made
				}
			}
			if err := s.vault.destroy(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// Run sweeps until the context ends.
func (s *Service) Run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
				s.c.Log.Error("sweeping", "error", err.Error())
			}
		}
	}
}

// Rounds lists the names of the open rounds, for health and tests.
func (s *Service) Rounds(ctx context.Context) (out []string, err error) {
	err = s.view(ctx, func(r storage.Reader) error {
		return r.List(bucketOpen, "", func(key string, _ []byte) error {
			out = append(out, key)
			return nil
		})
	})
	slices.Sort(out)
	return out, err
}
