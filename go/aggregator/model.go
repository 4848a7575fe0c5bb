package aggregator

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// waitsForModel is the reason that a first round gives for not being open.
const waitsForModel = "waiting for its first model"

// creating says whether the task has no first model yet. No round opens then:
// clients that began without it would train from different models.
func (r *taskRow) creating() bool {
	return !r.HasModel && !r.Brought && r.Round == 0 && r.Ended == ""
}

// created refuses clients as long as a task is being created. While the model
// is on its way they wait instead.
func (s *Service) created(ctx context.Context, name string) error {
	caller, err := rpc.Caller(ctx)
	if err != nil || caller.Role != identity.Client {
		return err
	}
	changed, leave := s.wait(name)
	defer leave()
	for {
		next := changed()
		s.mu.Lock()
		storing := s.storing[name] > 0
		s.mu.Unlock()
		creating := false
		if err := s.c.Ledger.View(ctx, func(r storage.Reader) error {
			t, row, err := taskOf(r, name)
			if err != nil {
				return err
			}
			creating = row.creating()
			return enrolled(ctx, t)
		}); err != nil || !creating {
			return err
		}
		if !storing {
			return unfinished(name)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return fmt.Errorf("the aggregator is stopping: %w", errs.ErrUnavailable)
		case <-next:
		}
	}
}

func unfinished(name string) error {
	return fmt.Errorf("task %s waits for its first model: its admin runs the same creation again, "+
		"and clients start after that: %w", name, errs.ErrTaskCreating)
}

// store counts a model that is on its way in, until the function it returns is
// called.
func (s *Service) store(name string) (done func()) {
	s.mu.Lock()
	s.storing[name]++
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		if s.storing[name]--; s.storing[name] == 0 {
			delete(s.storing, name)
		}
		s.mu.Unlock()
		s.signal(name)
	}
}

// PutModel stores a task's first model. A stream without values says that
// every client brings the model, whose digest the task names.
func (s *Service) PutModel(stream parts) error {
	ctx := stream.Context()
	part, err := stream.Recv()
	if err != nil {
		return err
	}
	var t *task.Task
	if err := s.c.Ledger.View(ctx, func(r storage.Reader) error {
		t, _, err = taskOf(r, part.Task)
		return err
	}); err != nil {
		return err
	}
	defer s.store(t.Name)()
	brought := false
	if len(part.Values) == 0 {
		if part, err = stream.Recv(); errors.Is(err, io.EOF) {
			brought, err = true, nil
		}
	}
	if err == nil && !brought {
		err = s.keepModel(stream, t, part)
	}
	if err != nil {
		return err
	}
	if err := s.c.Ledger.Update(ctx, func(w storage.Writer) error {
		_, row, err := taskOf(w, t.Name)
		if err != nil {
			return err
		}
		row.HasModel, row.Brought = row.HasModel || !brought, brought && !row.HasModel
		return putRow(w, bucketTask, t.Name, row)
	}); err != nil {
		return err
	}
	return stream.SendAndClose(&pb.Empty{})
}

type parts = grpc.ClientStreamingServer[pb.ModelPart, pb.Empty]

// keepModel writes what arrives, whole or not at all.
func (s *Service) keepModel(stream parts, t *task.Task, part *pb.ModelPart) error {
	segment, err := s.c.Blobs.Create(stream.Context(), modelBlob(task.DigestOf(t)))
	if err != nil {
		return err
	}
	h, left := task.NewModelHash(task.DigestOf(t.Layout)), 4*t.Layout.Values()
	for err == nil {
		if left -= int64(len(part.Values)); left < 0 {
			err = fmt.Errorf("the model of %s has more than %d values: %w", t.Name, t.Layout.Values(), errs.ErrLayout)
			break
		}
		h.Write(part.Values)
		if _, err = segment.Write(part.Values); err == nil {
			part, err = stream.Recv()
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
		if left != 0 || task.Digest(h.Sum(nil)) != t.InitialModel {
			err = fmt.Errorf("these are not the values of the first model of %s: %w", t.Name, errs.ErrModelMismatch)
		}
	}
	if err != nil {
		return errors.Join(err, segment.Abort())
	}
	return segment.Commit()
}

// modelPart is the size of one message of a model. A reader that stands still
// costs some of them.
const modelPart = 64 << 10

// GetModel sends a task's first model.
func (s *Service) GetModel(in *pb.TaskName, stream grpc.ServerStreamingServer[pb.ModelPart]) error {
	ctx := stream.Context()
	var t *task.Task
	var row *taskRow
	if err := s.c.Ledger.View(ctx, func(r storage.Reader) (err error) {
		if t, row, err = taskOf(r, in.Name); err != nil {
			return err
		}
		return enrolled(ctx, t)
	}); err != nil {
		return err
	}
	switch {
	case row.creating():
		return unfinished(t.Name)
	case !row.HasModel:
		return fmt.Errorf("task %s keeps no first model; every client brings it: %w", t.Name, errs.ErrModelMismatch)
	}
	blob, err := s.c.Blobs.Open(ctx, modelBlob(task.DigestOf(t)))
	if err != nil {
		return err
	}
	defer blob.Close()
	buf := make([]byte, modelPart)
	for at := int64(0); at < blob.Size(); {
		n := min(int64(len(buf)), blob.Size()-at)
		if _, err := blob.ReadAt(buf[:n], at); err != nil {
			return err
		}
		if err := stream.Send(&pb.ModelPart{Values: buf[:n]}); err != nil {
			return err
		}
		at += n
	}
	return nil
}
