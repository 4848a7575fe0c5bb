package kms

import (
	"context"
	"fmt"
	"slices"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// askedToOpen refuses a request to open a round that the task's own aggregator
// did not sign. A certificate of the aggregator's role is not enough: the task
// names one key.
func askedToOpen(t *task.Task, in *pb.OpenRequest, model task.Digest) error {
	request := &task.OpenRequest{Task: task.DigestOf(t), Round: in.Round, Model: model}
	if (task.Signed{Bytes: request.Canonical(), Signature: in.Signature}).Verify(t.Aggregator) == nil {
		return nil
	}
	return fmt.Errorf("the request to open round %d of %s is not signed by the task's aggregator: %w", in.Round,
		t.Name, errs.ErrSignature)
}

// askedToAbort refuses a request to give a round up that neither the task's
// own aggregator nor an admin of this service signed. The service itself,
// which no connection can claim to be, needs no signature.
func (s *Service) askedToAbort(ctx context.Context, t *task.Task, x *round, spec task.Digest, in *pb.AbortRound) error {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return err
	}
	request := &task.AbortRequest{Task: task.DigestOf(t), Round: x.Round, Spec: spec, Reason: in.Reason}
	object := task.Signed{Bytes: request.Canonical(), Signature: in.Signature}
	var may []task.Key
	switch caller.Role {
	case identity.KMS:
		return nil
	case identity.Aggregator:
		may = []task.Key{t.Aggregator}
	case identity.Admin:
		may = s.c.Admins
	}
	if slices.ContainsFunc(may, func(k task.Key) bool { return object.Verify(k) == nil }) {
		return nil
	}
	return fmt.Errorf("the request to abort round %d of %s is signed neither by the task's aggregator nor by an admin: %w",
		x.Round, t.Name, errs.ErrSignature)
}
