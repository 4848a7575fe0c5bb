package aggregator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// CreateTask accepts a task that a configured admin signed. Its first round
// opens when its first model is there.
func (s *Service) CreateTask(ctx context.Context, in *pb.Signed) (*pb.TaskStatus, error) {
	object := task.Signed{Bytes: in.GetObject(), Signature: in.GetSignature()}
	if !slices.ContainsFunc(s.c.Admins, func(k task.Key) bool { return object.Verify(k) == nil }) {
		return nil, fmt.Errorf("the task is not signed by an admin of this aggregator; admin_keys of its configuration must have the public half of signing_key: %w", errs.ErrSignature)
	}
	t, err := task.ParseTask(object.Bytes)
	if err != nil {
		return nil, err
	}
	if t.Aggregator != s.self {
		return nil, fmt.Errorf("the task names another aggregator: %w", errs.ErrSpec)
	}
	if err := s.c.Ledger.Update(ctx, func(w storage.Writer) error {
		old, err := getRow[taskRow](w, bucketTask, t.Name)
		switch {
		case err != nil:
			return err
		case old != nil && bytes.Equal(old.Task, object.Bytes):
			return nil
		case old != nil:
			return fmt.Errorf("%q: %w", t.Name, errs.ErrTaskExists)
		}
		n := 0
		if err := w.List(bucketTask, "", func(string, []byte) error { n++; return nil }); err != nil {
			return err
		}
		if n >= maxTasks {
			return fmt.Errorf("%d tasks: %w", n, errs.ErrLimit)
		}
		if err := putRow(w, bucketTask, t.Name, &taskRow{Task: object.Bytes, Signature: object.Signature, Model: t.InitialModel[:]}); err != nil {
			return err
		}
		return putRow(w, bucketRound, roundKey(t.Name, 0), &roundRow{State: task.RoundCreated})
	}); err != nil {
		return nil, err
	}
	s.c.Log.Info("task created", "task", t.Name, "members", len(t.Members), "values", t.Layout.Values())
	s.start(t.Name)
	return s.GetTask(ctx, &pb.TaskName{Name: t.Name})
}

// status is how a task and its latest round stand.
func status(r storage.Reader, name string) (*pb.TaskStatus, error) {
	t, row, err := taskOf(r, name)
	if err != nil {
		return nil, err
	}
	x, err := roundStatus(r, t, row.Round)
	if x != nil && row.creating() {
		x.Reason = waitsForModel
	}
	return &pb.TaskStatus{
		Task: &pb.Signed{Object: row.Task, Signature: row.Signature}, HasModel: row.HasModel,
		Published: row.Published, Ended: row.Ended, Round: x,
	}, err
}

func roundStatus(r storage.Reader, t *task.Task, n uint32) (*pb.RoundStatus, error) {
	row, err := getRow[roundRow](r, bucketRound, roundKey(t.Name, n))
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, fmt.Errorf("round %d of %s: %w", n, t.Name, errs.ErrNoRound)
	}
	x := &pb.RoundStatus{
		Round: n, State: pb.RoundState(row.State), Committed: row.Committed,
		Enrolled: uint32(len(t.Members)), MinCohort: t.MinCohort, Reason: row.Reason,
		Missing: row.Missing, Failed: row.Failed, Refused: row.Refused,
	}
	if row.Spec != nil {
		d := row.spec()
		x.Spec = d[:]
	}
	if !row.Deadline.IsZero() {
		x.DeadlineUnixMillis = row.Deadline.UnixMilli()
	}
	if row.Manifest != nil {
		x.Cohort = row.Committed
	}
	return x, nil
}

// GetTask returns a task as it was signed, and how it stands. For clients a
// task does not exist before its first model is there.
func (s *Service) GetTask(ctx context.Context, in *pb.TaskName) (out *pb.TaskStatus, err error) {
	if err := s.created(ctx, in.Name); err != nil {
		return nil, err
	}
	return out, s.c.Ledger.View(ctx, func(r storage.Reader) error {
		t, _, err := taskOf(r, in.Name)
		if err != nil {
			return err
		}
		if err := enrolled(ctx, t); err != nil {
			return err
		}
		out, err = status(r, in.Name)
		return err
	})
}

// ListTasks returns every task.
func (s *Service) ListTasks(ctx context.Context, _ *pb.Empty) (*pb.TaskList, error) {
	out := &pb.TaskList{}
	return out, s.c.Ledger.View(ctx, func(r storage.Reader) error {
		return r.List(bucketTask, "", func(name string, _ []byte) error {
			x, err := status(r, name)
			out.Tasks = append(out.Tasks, x)
			return err
		})
	})
}

// Watch sends the status now and after every change until the task has ended.
func (s *Service) Watch(in *pb.TaskName, stream grpc.ServerStreamingServer[pb.TaskStatus]) error {
	if err := s.known(stream.Context(), in.Name); err != nil {
		return err // before anything is kept for the name
	}
	next, leave := s.wait(in.Name)
	defer leave()
	for {
		changed := next()
		x, err := s.GetTask(stream.Context(), in)
		if err != nil {
			return err
		}
		if err := stream.Send(x); err != nil {
			return err
		}
		if x.Ended != "" && task.State(x.Round.State).Final() {
			return nil
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-s.ctx.Done():
			return fmt.Errorf("the aggregator is stopping: %w", errs.ErrUnavailable)
		case <-changed:
		}
	}
}

// known refuses a task that does not exist, and a client that it does not
// enrol.
func (s *Service) known(ctx context.Context, name string) error {
	return s.c.Ledger.View(ctx, func(r storage.Reader) error {
		t, _, err := taskOf(r, name)
		if err != nil {
			return err
		}
		return enrolled(ctx, t)
	})
}

// maxAwait bounds how long one call waits.
const maxAwait = 25 * time.Second

// AwaitRound answers when the round is at least in the wanted state, was
// aborted, or the time is over.
func (s *Service) AwaitRound(ctx context.Context, in *pb.AwaitRequest) (*pb.RoundStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, min(maxAwait, time.Duration(in.Seconds)*time.Second))
	defer cancel()
	if err := s.known(context.WithoutCancel(ctx), in.Task); err != nil {
		return nil, err // before anything is kept for the name
	}
	next, leave := s.wait(in.Task)
	defer leave()
	for {
		changed := next()
		var x *pb.RoundStatus
		var ended string
		err := s.c.Ledger.View(context.WithoutCancel(ctx), func(r storage.Reader) error {
			t, row, err := taskOf(r, in.Task)
			if err != nil {
				return err
			}
			if err := enrolled(ctx, t); err != nil {
				return err
			}
			n := in.Round
			if in.Latest {
				n = max(n, row.Round)
			}
			ended = row.Ended
			x, err = roundStatus(r, t, n)
			if errors.Is(err, errs.ErrNoRound) && ended == "" {
				x, err = &pb.RoundStatus{Round: n}, nil
			} else if errors.Is(err, errs.ErrNoRound) {
				err = fmt.Errorf("%s: %s: %w", t.Name, ended, errs.ErrTaskEnded)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if x.State >= in.State && x.State != pb.RoundState_ROUND_STATE_UNSPECIFIED {
			return x, nil
		}
		if in.Live && x.Committed != in.Seen {
			return x, nil
		}
		select {
		case <-ctx.Done():
			return x, nil
		case <-s.ctx.Done():
			return nil, fmt.Errorf("the aggregator is stopping: %w", errs.ErrUnavailable)
		case <-changed:
		}
	}
}

// AbortTask ends a task: no further round opens, and the open one is given up
// unless its sum was released.
func (s *Service) AbortTask(ctx context.Context, in *pb.AbortRequest) (*pb.TaskStatus, error) {
	reason := in.Reason
	if reason == "" {
		reason = "an admin aborted the task"
	}
	err := s.c.Ledger.Update(ctx, func(w storage.Writer) error {
		_, row, err := taskOf(w, in.Name)
		if err != nil || row.Ended != "" {
			return err
		}
		row.Ended = strings.ToValidUTF8(reason[:min(len(reason), 200)], "")
		return putRow(w, bucketTask, in.Name, row)
	})
	if err != nil {
		return nil, err
	}
	s.signal(in.Name)
	return s.GetTask(ctx, &pb.TaskName{Name: in.Name})
}
