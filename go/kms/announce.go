package kms

import (
	"context"
	"fmt"

	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// maxSealed is the size of the largest sealed key seed.
const maxSealed = envelope.Overhead + 32

// checkDepositSize refuses a deposit that is larger than any can be, before a
// byte of it is parsed or stored.
func checkDepositSize(in *pb.DepositRequest) error {
	if len(in.Sealed) > maxSealed || len(in.ReplyKey) != envelope.PublicKeySize {
		return fmt.Errorf("a sealed key of %d bytes and a reply key of %d, allowed are %d and %d: %w",
			len(in.Sealed), len(in.ReplyKey), maxSealed, envelope.PublicKeySize, errs.ErrDeposit)
	}
	return nil
}

// Announce notes that a client will contribute to a round, and signs the
// receipt. The same announcement again gets the same receipt. A client announces
// itself before it uploads, over its own connection: the aggregator, which can
// stall uploads, has no say in who counts as willing.
func (s *Service) Announce(ctx context.Context, in *pb.AnnounceRequest) (*pb.Signed, error) {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return nil, err
	}
	a, err := task.ParseAnnouncement(in.Announcement)
	if err != nil {
		return nil, err
	}
	if a.Client != caller.Name {
		return nil, fmt.Errorf("an announcement of %s sent by %s: %w", a.Client, caller.Name, errs.ErrDenied)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.update(ctx, func(w storage.Writer) error {
		x, t, err := s.memberOf(ctx, w, a.Spec)
		if err != nil {
			return err
		}
		if err := s.gossip(w, in.Checkpoint); err != nil {
			return err
		}
		prefix := a.Spec.String() + "/"
		if before, err := w.Get(bucketAnnounced, prefix+a.Client); err != nil || before != nil {
			return err
		}
		if err := s.undecided(x); err != nil {
			return err
		}
		spec, _, err := specOf(w, x.TaskDigest, x.Round)
		if err != nil {
			return err
		}
		if a.ModelDigest != spec.ModelDigest {
			return fmt.Errorf("round %d starts from model %s, the announcement from %s: %w",
				x.Round, spec.ModelDigest.Short(), a.ModelDigest.Short(), errs.ErrModelMismatch)
		}
		n := uint32(0)
		if err := w.List(bucketAnnounced, prefix, func(string, []byte) error { n++; return nil }); err != nil {
			return err
		}
		if n >= t.MaxClients {
			return fmt.Errorf("round %d of %s has its %d clients: %w", x.Round, t.Name, n, errs.ErrNotInCohort)
		}
		if x.Announced.IsZero() {
			x.Announced = s.c.Now()
			if err := putRound(w, a.Spec, x); err != nil {
				return err
			}
		}
		return w.Put(bucketAnnounced, prefix+a.Client, []byte{})
	}); err != nil {
		return nil, err
	}
	return signed(task.Sign(a, s.c.Signing)), nil
}
