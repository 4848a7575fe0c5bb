package arrowio

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/flight"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/errs"
)

// batcher gathers frames into batches and sends them. A batch is sent as soon
// as it has its size, so that no more than one is held.
type batcher struct {
	writer  *flight.Writer
	builder *array.BinaryBuilder
	size    int
	held    int
	first   int // index of the first frame held
	next    int
	indexed bool
}

func newBatcher(s flight.DataStreamWriter, size int, d *flight.FlightDescriptor) *batcher {
	mem := memory.NewGoAllocator()
	b := &batcher{size: size, builder: array.NewBinaryBuilder(mem, arrow.BinaryTypes.LargeBinary)}
	b.writer = flight.NewRecordWriter(s, ipc.WithSchema(frameSchema), ipc.WithAllocator(mem))
	if d != nil {
		b.writer.SetFlightDescriptor(d)
	}
	return b
}

func (b *batcher) add(frame []byte) error {
	if b.held > 0 && b.held+len(frame) > b.size {
		if err := b.flush(); err != nil {
			return err
		}
	}
	b.builder.Append(frame)
	b.held += len(frame)
	b.next++
	if b.held >= b.size {
		return b.flush()
	}
	return nil
}

func (b *batcher) flush() error {
	if b.held == 0 {
		return nil
	}
	column := b.builder.NewArray()
	defer column.Release()
	r := array.NewRecord(frameSchema, []arrow.Array{column}, int64(column.Len()))
	defer r.Release()
	var metadata []byte
	if b.indexed {
		metadata = binary.LittleEndian.AppendUint64(nil, uint64(b.first))
	}
	b.first, b.held = b.next, 0
	return b.writer.WriteWithAppMetadata(r, metadata)
}

// finish sends what is held and, when nothing was, the schema alone.
func (b *batcher) finish() error {
	defer b.builder.Release()
	if err := b.flush(); err != nil {
		return err
	}
	return b.writer.Close()
}

// PutFrames sends the frames of an upload from index first on, in the order in
// which frames passes them to emit, and tells acked which frame the server
// misses next. A frame is valid until emit returns. When the server refuses,
// its error comes at once, also while a send is blocked.
func PutFrames(ctx context.Context, conn grpc.ClientConnInterface, upload string, first int, frames func(emit func(index int, frame []byte) error) error, batchBytes int, acked func(next int)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := flight.NewFlightServiceClient(conn).DoPut(ctx)
	if err != nil {
		return err
	}
	answered := make(chan error, 1)
	go func() {
		err := acknowledge(stream, acked)
		if err != nil {
			cancel(err)
		}
		answered <- err
	}()
	out := newBatcher(stream, batchBytes, &flight.FlightDescriptor{Type: flight.DescriptorPATH, Path: []string{upload}})
	out.first, out.next, out.indexed = first, first, true
	err = frames(func(index int, frame []byte) error {
		if index != out.next {
			return fmt.Errorf("frame %d after %d: %w", index, out.next-1, errs.ErrChunkOrder)
		}
		return out.add(frame)
	})
	if err == nil {
		err = out.finish()
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil {
		// What the server said explains a send that failed better than the
		// failed send does.
		cancel(err)
		if said := <-answered; said != nil && (errors.Is(err, io.EOF) || errors.Is(err, context.Canceled)) {
			return said
		}
		return err
	}
	return <-answered
}

// acknowledge reads the server's answers until it ends the stream.
func acknowledge(stream flight.FlightService_DoPutClient, acked func(int)) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(r.AppMetadata) != indexSize {
			return fmt.Errorf("an answer of %d bytes: %w", len(r.AppMetadata), errs.ErrArrow)
		}
		acked(int(min(binary.LittleEndian.Uint64(r.AppMetadata), 1<<31)))
	}
}

// GetFrames passes the frames that a ticket asks for to emit, in order. A
// frame is valid until emit returns; one of more than maxFrame bytes is
// refused.
func GetFrames(ctx context.Context, conn grpc.ClientConnInterface, ticket []byte, maxFrame int, emit func(frame []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := flight.NewFlightServiceClient(conn).DoGet(ctx, &flight.Ticket{Ticket: bytes.Clone(ticket)})
	if err != nil {
		return err
	}
	in, err := newBatches(stream, 8<<20)
	if err != nil {
		return err
	}
	defer in.reader.Release()
	for {
		frames, _, err := in.next()
		if err != nil || frames == nil {
			return err
		}
		for i := range frames.Len() {
			b := frames.Value(i)
			if len(b) > maxFrame {
				return fmt.Errorf("a frame of %d bytes, at most %d are expected: %w", len(b), maxFrame, errs.ErrFrame)
			}
			if err := emit(b); err != nil {
				return err
			}
		}
	}
}
