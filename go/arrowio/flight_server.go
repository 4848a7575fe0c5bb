package arrowio

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/apache/arrow/go/v15/arrow/flight"
	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Uploads is where DoPut delivers to. The context carries the caller.
type Uploads interface {
	Upload(ctx context.Context, id string) (Upload, error)
}

// Upload takes the frames of one contribution.
type Upload interface {
	// Next is the index of the first frame that has not arrived.
	Next() int
	// Put takes a frame, which is valid until it returns.
	Put(index int, frame []byte) error
}

// Downloads is where DoGet reads from.
type Downloads interface {
	// Frames passes the frames that a ticket asks for to emit, in order. A
	// frame is valid until emit returns.
	Frames(ctx context.Context, ticket []byte, emit func(frame []byte) error) error
}

// FlightLimits bound what streams cost together.
type FlightLimits struct {
	Streams      int // served at once; others wait without being read
	MessageBytes int // of one message, as gRPC enforces it
	BatchBytes   int // of an outgoing batch, or one frame where that is larger
}

// RegisterFlight serves frames over Arrow Flight: DoPut and DoGet, nothing
// else.
func RegisterFlight(s *grpc.Server, up Uploads, down Downloads, l FlightLimits) {
	flight.RegisterFlightServiceServer(s, &frames{up: up, down: down, limits: l, room: make(chan struct{}, l.Streams)})
}

type frames struct {
	flight.BaseFlightServer
	up     Uploads
	down   Downloads
	limits FlightLimits
	room   chan struct{}
}

// admit waits for a place among the streams that are served.
func (f *frames) admit(ctx context.Context) (leave func(), err error) {
	select {
	case f.room <- struct{}{}:
		return func() { <-f.room }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// DoPut takes frames of one upload. Each message says the index of its first
// frame; each is answered with the index of the first frame that is missing.
func (f *frames) DoPut(stream flight.FlightService_DoPutServer) error {
	leave, err := f.admit(stream.Context())
	if err != nil {
		return err
	}
	defer leave()
	in, err := newBatches(stream, 4*f.limits.MessageBytes)
	if err != nil {
		return err
	}
	defer in.reader.Release()
	d := in.checked.descriptor
	if d == nil || d.Type != flight.DescriptorPATH || len(d.Path) != 1 || len(d.Path[0]) > 64 {
		return fmt.Errorf("the first message does not name an upload: %w", errs.ErrArrow)
	}
	upload, err := f.up.Upload(stream.Context(), d.Path[0])
	if err != nil {
		return err
	}
	for {
		frames, metadata, err := in.next()
		if err != nil || frames == nil {
			return err
		}
		if len(metadata) != indexSize {
			return fmt.Errorf("a batch that does not say where it belongs: %w", errs.ErrArrow)
		}
		first := binary.LittleEndian.Uint64(metadata)
		if first > 1<<31 {
			return fmt.Errorf("frame %d: %w", first, errs.ErrChunkOrder)
		}
		for i := range frames.Len() {
			if err := upload.Put(int(first)+i, frames.Value(i)); err != nil {
				return err
			}
		}
		next := binary.LittleEndian.AppendUint64(nil, uint64(upload.Next()))
		if err := stream.Send(&flight.PutResult{AppMetadata: next}); err != nil {
			return err
		}
	}
}

// DoGet sends the frames that a ticket asks for.
func (f *frames) DoGet(t *flight.Ticket, stream flight.FlightService_DoGetServer) error {
	leave, err := f.admit(stream.Context())
	if err != nil {
		return err
	}
	defer leave()
	out := newBatcher(stream, f.limits.BatchBytes, nil)
	if err := f.down.Frames(stream.Context(), t.GetTicket(), out.add); err != nil {
		return err
	}
	return out.finish()
}
