package client

import (
	"context"
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

// InitialModel fetches the task's first model into out, of the layout's size,
// and verifies it against the digest that the admin signed. It returns false
// when the aggregator says that every client brings the model. Whether that is
// true or not, this client contributes nothing to the first round then until
// [Client.HoldsInitialModel] has seen the values that it starts from.
func (x *Client) InitialModel(ctx context.Context, out []float32) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if int64(len(out)) != x.task.Layout.Values() {
		return false, fmt.Errorf("room for %d values of %d: %w", len(out), x.task.Layout.Values(), errs.ErrArgument)
	}
	status, err := x.rounds.GetTask(ctx, &pb.TaskName{Name: x.task.Name})
	if err != nil {
		return false, rpc.FromStatus(err, "aggregator")
	}
	if !status.HasModel {
		x.owe(true)
		return false, nil
	}
	stream, err := x.rounds.GetModel(ctx, &pb.TaskName{Name: x.task.Name})
	if err != nil {
		return false, rpc.FromStatus(err, "aggregator")
	}
	h, at := task.NewModelHash(task.DigestOf(x.task.Layout)), 0
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, rpc.FromStatus(err, "aggregator")
		}
		if len(part.Values)%4 != 0 || at+len(part.Values)/4 > len(out) {
			return false, fmt.Errorf("the first model of %s has another size: %w", x.task.Name, errs.ErrModelMismatch)
		}
		h.Write(part.Values)
		for i := 0; i < len(part.Values); i += 4 {
			out[at] = math.Float32frombits(binary.LittleEndian.Uint32(part.Values[i:]))
			at++
		}
	}
	if at != len(out) || task.Digest(h.Sum(nil)) != x.task.InitialModel {
		return false, fmt.Errorf("the aggregator's first model of %s is not the one that the admin signed: %w",
			x.task.Name, errs.ErrModelMismatch)
	}
	x.owe(false)
	return true, nil
}

// HoldsInitialModel says whether values, in layout order, are the task's first
// model: it compares their digest with the one that the admin signed.
func (x *Client) HoldsInitialModel(values []float32) error {
	if n := x.task.Layout.Values(); int64(len(values)) != n {
		return fmt.Errorf("a model of %d values for a layout of %d: %w", len(values), n, errs.ErrLayout)
	}
	if own := task.InitialModel(task.DigestOf(x.task.Layout), values); own != x.task.InitialModel {
		return fmt.Errorf("the first model of task %s has the digest %s, and this client's weights have %s: "+
			"load the weights that the task was created with, the same bits at every client: %w",
			x.task.Name, x.task.InitialModel.Short(), own.Short(), errs.ErrModelMismatch)
	}
	x.owe(false)
	return nil
}

func (x *Client) owe(owing bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.owing = owing
}

// begun refuses to contribute from a first model that nobody has compared with
// the task's.
func (x *Client) begun() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.owing && x.model == x.task.InitialModel {
		return fmt.Errorf("the aggregator keeps no first model of task %s, and nobody has compared this client's weights "+
			"with the digest that the admin signed; pass them to check_initial_model first: %w",
			x.task.Name, errs.ErrModelMismatch)
	}
	return nil
}
