package arrowio

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/apache/arrow/go/v15/arrow/flight"
	wire "github.com/apache/arrow/go/v15/arrow/flight/gen/flight"
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
	Streams      int // served at once, of each kind; others wait without being read
	MessageBytes int // of one incoming message; gRPC should be told the same
	BatchBytes   int // of an outgoing batch, or one frame where that is larger
	// Idle is how long a served stream may stand still before it is ended; 0
	// for ever.
	Idle time.Duration
	// Patience is how long it may stand still before its place is taken back
	// while others wait; 0 for ever.
	Patience time.Duration
	// Caller names whose stream it is; nil: all are one caller's.
	Caller func(ctx context.Context) string
}

// RegisterFlight serves frames over Arrow Flight: DoPut and DoGet, nothing
// else. A limit below one is a fault of the program and panics.
func RegisterFlight(s *grpc.Server, up Uploads, down Downloads, limits FlightLimits) {
	if limits.Streams < 1 || limits.MessageBytes < 1 || limits.BatchBytes < 1 {
		panic("arrowio: RegisterFlight needs every limit")
	}
	flight.RegisterFlightServiceServer(s, &frames{
		up: up, down: down, limits: limits, lobby: newLobby(lobbySize),
		uploads: newPlaces(limits.Streams, limits.Patience), downloads: newPlaces(limits.Streams, limits.Patience),
	})
}

// frames embeds the generated server: Arrow's BaseFlightServer answers
// Handshake.
type frames struct {
	wire.UnimplementedFlightServiceServer
	up     Uploads
	down   Downloads
	limits FlightLimits
	// An upload has no place before its first message has named one that
	// exists and is its caller's.
	lobby              *lobby
	uploads, downloads *places
}

func (f *frames) who(ctx context.Context) string {
	if f.limits.Caller == nil {
		return ""
	}
	return f.limits.Caller(ctx)
}

// recovered turns a panic into an error. What panicked goes to the log without
// its value, which may hold a peer's bytes.
func recovered(ctx context.Context, err *error) {
	if p := recover(); p != nil {
		slog.ErrorContext(ctx, "panic in a Flight stream", "kind", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
		*err = fmt.Errorf("the stream panicked: %w", errs.ErrInternal)
	}
}

// attend runs a stream's body and ends it when body has not called beat for
// too long, or when room is needed. A body that stands still is inside a send
// or receive, which fails as soon as the stream has ended; waiting for a place
// is not standing still.
func (f *frames) attend(ctx context.Context, room *places, body func(s *seat, beat func()) error) error {
	s := room.join(f.who(ctx))
	beats, done := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }()
		defer s.leave()
		defer recovered(ctx, &err)
		err = body(s, func() {
			select {
			case beats <- struct{}{}:
			default:
			}
		})
	}()
	var idle <-chan time.Time
	var timer *time.Timer
	if f.limits.Idle > 0 {
		timer = time.NewTimer(f.limits.Idle)
		defer timer.Stop()
		idle = timer.C
	}
	for {
		select {
		case err := <-done:
			return err
		case <-beats:
			if timer != nil {
				timer.Reset(f.limits.Idle)
			}
		case <-s.cut:
			s.leave()
			return fmt.Errorf("the stream stood still while others waited: %w", errs.ErrTimeout)
		case <-idle:
			if s.waiting() {
				timer.Reset(f.limits.Idle)
				continue
			}
			s.leave()
			return fmt.Errorf("the stream stood still for %v: %w", f.limits.Idle, errs.ErrTimeout)
		}
	}
}

// DoPut takes frames of one upload. Each message says the index of its first
// frame; each is answered with the index of the first frame that is missing.
func (f *frames) DoPut(stream flight.FlightService_DoPutServer) (err error) {
	defer recovered(stream.Context(), &err)
	return f.attend(stream.Context(), f.uploads, func(s *seat, beat func()) error { return f.put(stream, s, beat) })
}

func (f *frames) put(stream flight.FlightService_DoPutServer, s *seat, beat func()) error {
	from := &received{stream: stream}
	defer from.close()
	came := f.lobby.enter(s)
	in, err := newBatches(from, f.limits.MessageBytes)
	came()
	if err != nil {
		return err
	}
	d := in.checked.descriptor
	if d == nil || d.Type != flight.DescriptorPATH || len(d.Path) != 1 || d.Path[0] == "" || len(d.Path[0]) > maxName {
		return fmt.Errorf("the first message does not name an upload: %w", errs.ErrArrow)
	}
	upload, err := f.up.Upload(stream.Context(), d.Path[0])
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		// Whoever has sent nothing yet is waited for without a place.
		if !first {
			if err := s.turn(stream.Context()); err != nil {
				return err
			}
		}
		frames, metadata, err := in.next()
		if err != nil || frames == nil {
			return err
		}
		if first {
			if err := s.turn(stream.Context()); err != nil {
				return err
			}
		}
		if len(metadata) != indexSize {
			return fmt.Errorf("a batch that does not say where it belongs: %w", errs.ErrArrow)
		}
		at := binary.LittleEndian.Uint64(metadata)
		if at > maxIndex {
			return fmt.Errorf("frame %d: %w", at, errs.ErrChunkOrder)
		}
		for i := range frames.Len() {
			if err := upload.Put(int(at)+i, frames.Value(i)); err != nil {
				return err
			}
		}
		next := binary.LittleEndian.AppendUint64(nil, uint64(upload.Next()))
		if err := stream.Send(&flight.PutResult{AppMetadata: next}); err != nil {
			return err
		}
		beat()
	}
}

// DoGet sends the frames that a ticket asks for.
func (f *frames) DoGet(t *flight.Ticket, stream flight.FlightService_DoGetServer) (err error) {
	defer recovered(stream.Context(), &err)
	return f.attend(stream.Context(), f.downloads, func(s *seat, beat func()) error {
		out := newBatcher(&sender{stream: stream}, f.limits.BatchBytes)
		defer out.drop()
		if err := f.down.Frames(stream.Context(), t.GetTicket(), func(frame []byte) error {
			beat()
			if err := s.turn(stream.Context()); err != nil {
				return err
			}
			return out.add(frame)
		}); err != nil {
			return err
		}
		return out.finish()
	})
}
