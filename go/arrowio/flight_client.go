package arrowio

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v15/arrow/flight"
	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Limits of what a client takes from a server in one message, where the
// connection does not set a lower one: batches, or one frame where that is
// larger, and what describes it.
const (
	maxDownload = 32 << 20
	overhead    = 64 << 10
)

// PutFrames sends the frames of an upload from index first on, in the order in
// which frames passes them to emit, and tells acked which frame the server
// misses next. A frame is valid until emit returns. acked runs beside frames,
// in another goroutine, and never after PutFrames has returned. When the
// server refuses, its error comes at once, also while a send is blocked.
func PutFrames(ctx context.Context, conn grpc.ClientConnInterface, upload string, first int, frames func(emit func(index int, frame []byte) error) error, batchBytes int, acked func(next int)) error {
	if first < 0 || first > maxIndex {
		return fmt.Errorf("frame %d: %w", first, errs.ErrChunkOrder)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := flight.NewFlightServiceClient(conn).DoPut(ctx)
	if err != nil {
		return err
	}
	answered := make(chan error, 1)
	go func() {
		err := acknowledge(stream, acked)
		if err != nil {
			cancel() // wakes a send that waits for the server
		}
		answered <- err
	}()
	to := &sender{stream: stream, descriptor: &flight.FlightDescriptor{Type: flight.DescriptorPATH, Path: []string{upload}}}
	out := newBatcher(to, batchBytes)
	defer out.drop()
	out.first, out.next, out.indexed = first, first, true
	err = frames(func(index int, frame []byte) error {
		if index != out.next {
			return fmt.Errorf("frame %d, want %d: %w", index, out.next, errs.ErrChunkOrder)
		}
		return out.add(frame)
	})
	if err == nil {
		err = out.finish()
	}
	if err == nil {
		if err = stream.CloseSend(); err == nil {
			return <-answered
		}
		to.failed = err
	}
	if !errors.Is(to.failed, io.EOF) {
		cancel() // the server has not ended the stream; nobody else would
		if said := <-answered; to.failed != nil && said != nil {
			return said
		}
		return err
	}
	// The server ended the stream: its own words explain more than the send
	// that failed for it, however frames has wrapped that.
	if said := <-answered; said != nil {
		return said
	}
	return fmt.Errorf("the server ended the upload early: %w", errs.ErrUnavailable)
}

// acknowledge reads the server's answers until it ends the stream.
func acknowledge(stream flight.FlightService_DoPutClient, acked func(int)) (err error) {
	defer recovered(stream.Context(), &err)
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
		next := binary.LittleEndian.Uint64(r.AppMetadata)
		if next > maxIndex+maxRows {
			return fmt.Errorf("an answer of %d frames: %w", next, errs.ErrArrow)
		}
		acked(int(next))
	}
}

// GetFrames passes the frames that a ticket asks for to emit, in order. A
// frame is valid until emit returns; one of more than maxFrame bytes is
// refused.
func GetFrames(ctx context.Context, conn grpc.ClientConnInterface, ticket []byte, maxFrame int, emit func(frame []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := flight.NewFlightServiceClient(conn).DoGet(ctx, &flight.Ticket{Ticket: ticket})
	if err != nil {
		return err
	}
	from := &received{stream: stream}
	defer from.close()
	in, err := newBatches(from, max(maxDownload, maxFrame+overhead))
	if err != nil {
		return err
	}
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
