package arrowio

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/flight"
	wire "github.com/apache/arrow/go/v15/arrow/flight/gen/flight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cryptflow/cryptflow/go/errs"
)

// send puts raw messages and returns what the server made of them.
func send(ctx context.Context, conn grpc.ClientConnInterface, messages []*flight.FlightData) error {
	s, err := flight.NewFlightServiceClient(conn).DoPut(ctx)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := s.Send(m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	_ = s.CloseSend()
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// stillServes makes a whole upload.
func stillServes(t *testing.T, conn grpc.ClientConnInterface, all *sinks) {
	t.Helper()
	u := all.add("good", nil)
	want := makeFrames(5, 5, 100)
	if err := PutFrames(t.Context(), conn, "good", 0, feed(want, 0), 200, ignore); err != nil {
		t.Fatal(err)
	}
	equalFrames(t, u.got(), want)
}

func TestServerRefusesHostileUploads(t *testing.T) {
	l := limits
	l.MessageBytes = 2 << 20
	all := &sinks{}
	conn := serveSinks(t, all, l, watch{})
	for _, c := range hostileCases() {
		t.Run(c.name, func(t *testing.T) {
			u := all.add("bad", nil)
			err := send(t.Context(), conn, c.messages)
			if c.want == nil {
				if err != nil || u.Next() != 2 {
					t.Fatalf("%d frames, %v", u.Next(), err)
				}
				return
			}
			wantError(t, err, c.want)
			if u.Next() != 0 {
				t.Fatalf("%d frames were delivered", u.Next())
			}
			stillServes(t, conn, all)
		})
	}
}

// liar answers every download with the same messages, and every upload so.
type liar struct {
	wire.UnimplementedFlightServiceServer
	messages []*flight.FlightData
	put      func(flight.FlightService_DoPutServer) error
}

func (l *liar) DoGet(_ *flight.Ticket, s flight.FlightService_DoGetServer) error {
	for _, m := range l.messages {
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (l *liar) DoPut(s flight.FlightService_DoPutServer) error { return l.put(s) }

func (l *liar) serve(t *testing.T) *grpc.ClientConn {
	return serve(t, func(s *grpc.Server) { flight.RegisterFlightServiceServer(s, l) }, watch{})
}

func TestClientRefusesHostileDownloads(t *testing.T) {
	l := &liar{}
	conn := l.serve(t)
	for _, c := range hostileCases() {
		if c.putOnly {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			l.messages = c.messages
			n := 0
			err := GetFrames(t.Context(), conn, nil, 100, func([]byte) error { n++; return nil })
			if c.want == nil {
				if err != nil || n != 2 {
					t.Fatalf("%d frames, %v", n, err)
				}
				return
			}
			wantError(t, err, c.want)
			if n != 0 {
				t.Fatalf("%d frames were delivered", n)
			}
		})
	}
}

// TestClaimsCostNothing holds the memory that a refused message costs to a
// bound far below its claim: all of it, released or not.
func TestClaimsCostNothing(t *testing.T) {
	all := &sinks{}
	conn := serveSinks(t, all, limits, watch{})
	stillServes(t, conn, all)
	for _, c := range batchCases() {
		t.Run(c.name, func(t *testing.T) {
			all.add("bad", nil)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_ = send(t.Context(), conn, c.messages)
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
				t.Fatalf("a message of some hundred bytes took %d bytes", took)
			}
		})
	}
}

// replay is a source of recorded messages.
type replay struct{ left recorder }

func (r *replay) Recv() (*flight.FlightData, error) {
	if len(r.left) == 0 {
		return nil, io.EOF
	}
	d := r.left[0]
	r.left = r.left[1:]
	return d, nil
}

// TestDecodingAllocatesNothing: frames are handed on where they arrived.
func TestDecodingAllocatesNothing(t *testing.T) {
	r := stream("u", makeFrames(6, 500, 9000), 700)
	in, err := newBatches(&replay{slices.Concat(r[:1], slices.Repeat(r[1:], 20))}, 10<<10)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(5*(len(r)-1), func() {
		if f, _, err := in.next(); err != nil || f == nil {
			t.Fatal(f, err)
		}
	}); n > 1 { // of a batch's three words
		t.Fatalf("%g allocations a batch", n)
	}
}

// TestMutatedStreamsEndInAnErrorOrInFrames: a changed message is refused by a
// code, or delivers pieces of what was sent; nothing else ever arrives.
func TestMutatedStreamsEndInAnErrorOrInFrames(t *testing.T) {
	all := &sinks{}
	conn := serveSinks(t, all, limits, watch{})
	refused := 0
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 7))
		messages := stream("bad", makeFrames(seed, 12, 300), 600)
		m := messages[r.IntN(len(messages))]
		part := []*[]byte{&m.DataHeader, &m.DataHeader, &m.DataHeader, &m.DataBody, &m.AppMetadata}[r.IntN(5)]
		mutate(r, part)
		u := all.add("bad", nil)
		if err := send(t.Context(), conn, messages); err != nil {
			refused++
			code := errs.Parse(status.Convert(err).Message())
			if code == nil || errors.Is(code, errs.ErrInternal) {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		for i, f := range u.got() {
			if len(f) == 0 || !slices.ContainsFunc(messages, func(m *flight.FlightData) bool { return bytes.Contains(m.DataBody, f) }) {
				t.Fatalf("seed %d: frame %d was never sent", seed, i)
			}
		}
	}
	if refused == 0 {
		t.Fatal("no mutation was refused")
	}
	stillServes(t, conn, all)
}

func mutate(r *rand.Rand, part *[]byte) {
	b := *part
	if len(b) == 0 {
		*part = []byte{byte(r.Uint32())}
		return
	}
	for range 1 + r.IntN(4) {
		switch at := r.IntN(len(b)); r.IntN(5) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.Uint32())
		case 2:
			b[at] = []byte{0, 1, 0x7f, 0x80, 0xff}[r.IntN(5)]
		case 3:
			copy(b[at:], b[r.IntN(len(b)):])
		case 4:
			if r.IntN(4) == 0 && at > 0 {
				b = b[:at]
			}
		}
	}
	*part = b
}

func TestPanicEndsOneStream(t *testing.T) {
	all := &sinks{}
	all.add("u", func(int) error { panic("a fault") })
	l := limits
	l.Streams = 1
	conn := serveSinks(t, all, l, watch{})
	for range 2 {
		wantError(t, PutFrames(t.Context(), conn, "u", 0, feed(makeFrames(1, 9, 9), 0), 1, ignore), errs.ErrInternal)
	}
	stillServes(t, conn, all)
}

func TestClientDistrustsTheServersAnswers(t *testing.T) {
	answer := func(b []byte) func(flight.FlightService_DoPutServer) error {
		return func(s flight.FlightService_DoPutServer) error {
			if err := s.Send(&flight.PutResult{AppMetadata: b}); err != nil {
				return err
			}
			<-s.Context().Done()
			return s.Context().Err()
		}
	}
	endless := func(emit func(int, []byte) error) error {
		for i := 0; ; i++ {
			if err := emit(i, make([]byte, 1000)); err != nil {
				return err
			}
		}
	}
	for name, c := range map[string]struct {
		put   func(flight.FlightService_DoPutServer) error
		acked func(int)
		want  error
	}{
		"a short answer":        {answer([]byte{1}), ignore, errs.ErrArrow},
		"a huge watermark":      {answer(index(math.MaxUint64)), ignore, errs.ErrArrow},
		"an early end":          {func(flight.FlightService_DoPutServer) error { return nil }, ignore, errs.ErrUnavailable},
		"a panic in the caller": {answer(index(1)), func(int) { panic("a fault") }, errs.ErrInternal},
	} {
		t.Run(name, func(t *testing.T) {
			conn := (&liar{put: c.put}).serve(t)
			wantError(t, PutFrames(t.Context(), conn, "u", 0, endless, 1, c.acked), c.want)
		})
	}
}

func TestCallersErrorsComeBackUnchanged(t *testing.T) {
	all := &sinks{}
	u := all.add("u", nil)
	conn := serveSinks(t, all, limits, watch{})
	frames := makeFrames(8, 20, 100)
	put := func(f func(func(int, []byte) error) error) error {
		return PutFrames(t.Context(), conn, "u", 0, f, 1, ignore)
	}
	own := errors.New("own")
	if err := put(func(emit func(int, []byte) error) error { return errors.Join(emit(0, frames[0]), own) }); !errors.Is(err, own) {
		t.Fatalf("got %v", err)
	}
	wantError(t, put(func(emit func(int, []byte) error) error { return emit(1, frames[1]) }), errs.ErrChunkOrder)
	wantError(t, put(func(emit func(int, []byte) error) error { return emit(0, nil) }), errs.ErrFrame)
	wantError(t, PutFrames(t.Context(), conn, "u", -1, feed(frames, 0), 1, ignore), errs.ErrChunkOrder)
	if err := PutFrames(t.Context(), conn, "u", 0, feed(frames, 0), 1, ignore); err != nil {
		t.Fatal(err)
	}
	equalFrames(t, u.got(), frames)
	if err := GetFrames(t.Context(), conn, []byte("u"), 400, func([]byte) error { return own }); !errors.Is(err, own) {
		t.Fatalf("got %v", err)
	}
	wantError(t, GetFrames(t.Context(), conn, []byte("u"), len(frames[0])-1, func([]byte) error { return nil }), errs.ErrFrame)
	wantError(t, GetFrames(t.Context(), conn, []byte("nobody"), 400, func([]byte) error { return nil }), errs.ErrUpload)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := GetFrames(ctx, conn, []byte("u"), 400, func([]byte) error { return nil }); status.Code(err) != codes.Canceled {
		t.Fatalf("got %v", err)
	}
}

// TestAStreamThatStandsStillLosesItsPlace, so that one peer cannot keep the
// others waiting.
func TestAStreamThatStandsStillLosesItsPlace(t *testing.T) {
	all := &sinks{}
	all.add("slow", nil)
	l := limits
	l.Streams, l.Idle = 1, 50*time.Millisecond
	conn := serveSinks(t, all, l, watch{})
	s, err := flight.NewFlightServiceClient(conn).DoPut(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(stream("slow", makeFrames(1, 3, 10), 1)[0]); err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	wantError(t, err, errs.ErrTimeout)
	stillServes(t, conn, all)
}
