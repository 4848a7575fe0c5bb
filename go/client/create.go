package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// modelPart is the size of one message of a model.
const modelPart = 256 << 10

// Who keeps a task's first model.
const (
	modelStored  = "stored"
	modelBrought = "clients"
)

// CreateTask signs a task and gives it to both services, with the first
// model's values in layout order. No round opens before all three steps are
// done. When a step fails or is interrupted, the same request with the same
// model goes on from there; once all are done it returns ErrTaskExists.
func (a *Admin) CreateTask(ctx context.Context, q TaskRequest, model []float32) (*task.Task, error) {
	if a.signing == nil {
		return nil, fmt.Errorf("creating a task needs signing_key in the profile: %w", errs.ErrConfig)
	}
	who := or(q.InitialModel, modelStored)
	if who != modelStored && who != modelBrought {
		return nil, fmt.Errorf("initial_model is %q; it is %s or %s: %w",
			q.InitialModel, modelStored, modelBrought, errs.ErrArgument)
	}
	aggregator, err := a.Rounds.Info(ctx, &pb.Empty{})
	if err != nil {
		return nil, rpc.FromStatus(err, "aggregator")
	}
	kms, err := a.Keys.Info(ctx, &pb.Empty{})
	if err != nil {
		return nil, rpc.FromStatus(err, "key service")
	}
	t, err := q.build(aggregator, kms)
	if err != nil {
		return nil, err
	}
	if err := usable(t.Layout, model); err != nil {
		return nil, err
	}
	t.InitialModel = task.InitialModel(task.DigestOf(t.Layout), model)
	if err := t.Check(); err != nil {
		return nil, err
	}
	object := task.Sign(t, a.signing)
	_, err = a.Keys.CreateTask(ctx, signed(object))
	if err = rpc.FromStatus(err, "key service"); errors.Is(err, errs.ErrTaskExists) {
		object, err = a.unfinished(ctx, t)
	}
	if err != nil {
		return nil, err
	}
	if _, err := a.Rounds.CreateTask(ctx, signed(object)); err != nil {
		return nil, a.goesOn(t, rpc.FromStatus(err, "aggregator"))
	}
	if who == modelBrought {
		model = nil
	}
	if err := a.putModel(ctx, t.Name, model); err != nil {
		return nil, a.goesOn(t, err)
	}
	return t, nil
}

// goesOn says how to finish what was begun.
func (a *Admin) goesOn(t *task.Task, err error) error {
	if errors.Is(err, errs.ErrTaskExists) {
		return err
	}
	return fmt.Errorf("task %s is signed and waits for its first model, so that no client can start; "+
		"create it again, with the same request and the same model, to go on: %w", t.Name, err)
}

func signed(s task.Signed) *pb.Signed { return &pb.Signed{Object: s.Bytes, Signature: s.Signature} }

// usable refuses a first model of another size, with values that are not finite,
// or with negative values where the task allows none.
func usable(layout task.Layout, model []float32) error {
	if n := layout.Values(); int64(len(model)) != n {
		return fmt.Errorf("a first model of %d values for a layout of %d: %w", len(model), n, errs.ErrLayout)
	}
	for _, tensor := range layout {
		part := model[:tensor.Count()]
		model = model[len(part):]
		for _, v := range part {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return fmt.Errorf("tensor %q of the first model holds NaN or an infinity; "+
					"a constant, such as a mask, can be left out: %w", tensor.Name, errs.ErrNotFinite)
			}
			if tensor.NonNegative && v < 0 {
				return fmt.Errorf("tensor %q of the first model is to stay non-negative and holds %g; "+
					"if that is meant, take it out with nonnegative=[\"!%s\"]: %w", tensor.Name, v, tensor.Name, errs.ErrArgument)
			}
		}
	}
	return nil
}

// unfinished returns the task of t's name as it was signed, if it is the same
// request by the same admin and still waits for its first model. t takes over
// its nonce.
func (a *Admin) unfinished(ctx context.Context, t *task.Task) (task.Signed, error) {
	reply, err := a.Keys.GetTask(ctx, &pb.TaskName{Name: t.Name})
	if err != nil {
		return task.Signed{}, rpc.FromStatus(err, "key service")
	}
	object := task.Signed{Bytes: reply.Object, Signature: reply.Signature}
	exists := func(why string) (task.Signed, error) {
		return task.Signed{}, fmt.Errorf("%q: %s: %w", t.Name, why, errs.ErrTaskExists)
	}
	if object.Verify(task.Key(a.signing.Public().(ed25519.PublicKey))) != nil {
		return exists("another admin signed it")
	}
	old, err := task.ParseTask(object.Bytes)
	if err != nil {
		return task.Signed{}, err
	}
	t.Nonce = old.Nonce
	model := t.InitialModel
	t.InitialModel = old.InitialModel
	same := bytes.Equal(t.Canonical(), object.Bytes)
	t.InitialModel = model
	if !same {
		return exists("another request created it")
	}
	s, err := a.Rounds.GetTask(ctx, &pb.TaskName{Name: t.Name})
	switch err = rpc.FromStatus(err, "aggregator"); {
	case errors.Is(err, errs.ErrNoTask):
	case err != nil:
		return task.Signed{}, err
	case s.Ended != "":
		return exists("the same request created it, and it has ended")
	case s.HasModel || !WaitsForModel(s) && s.Round.GetState() != pb.RoundState_CREATED:
		return exists("the same request created it, and it is complete")
	}
	if old.InitialModel != model {
		return exists(fmt.Sprintf("its creation was interrupted, and the weights that it began with, of digest %s, "+
			"are not these, of %s; go on with those, or take another name", old.InitialModel.Short(), model.Short()))
	}
	return object, nil
}

// WaitsForModel says whether a task's creation is not finished.
func WaitsForModel(s *pb.TaskStatus) bool {
	r := s.GetRound()
	waits := r.GetRound() == 0 && r.GetReason() != "" && r.GetState() != pb.RoundState_ABORTED
	return waits && !s.HasModel && s.Ended == ""
}

// putModel sends the first model's values. None say that every client brings
// them.
func (a *Admin) putModel(ctx context.Context, name string, model []float32) error {
	stream, err := a.Rounds.PutModel(ctx)
	if err != nil {
		return rpc.FromStatus(err, "aggregator")
	}
	part := &pb.ModelPart{Task: name}
	for first := true; (first || len(model) > 0) && err == nil; first = false {
		n := min(len(model), modelPart/4)
		part.Values = part.Values[:0]
		for _, v := range model[:n] {
			part.Values = binary.LittleEndian.AppendUint32(part.Values, math.Float32bits(v))
		}
		model = model[n:]
		err = stream.Send(part)
		part = &pb.ModelPart{Values: part.Values}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return rpc.FromStatus(err, "aggregator")
	}
	_, err = stream.CloseAndRecv()
	return rpc.FromStatus(err, "aggregator")
}
