package arrowio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/apache/arrow/go/v15/arrow/flight"
	wire "github.com/apache/arrow/go/v15/arrow/flight/gen/flight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cryptflow/cryptflow/go/errs"
)

func TestFramesComeBackAsSent(t *testing.T) {
	want := makeFrames(1, 4000, 300_000)
	for _, size := range []int{1, 5000, 1 << 20} {
		t.Run(fmt.Sprintf("batch=%d", size), func(t *testing.T) {
			all := &sinks{}
			u := all.add("u", nil)
			l := limits
			l.BatchBytes = size
			conn := serveSinks(t, all, l, watch{})
			var marks []int
			if err := PutFrames(t.Context(), conn, "u", 0, feed(want, 0), size, func(n int) { marks = append(marks, n) }); err != nil {
				t.Fatal(err)
			}
			equalFrames(t, u.got(), want)
			if !slices.IsSorted(marks) || len(marks) == 0 || marks[len(marks)-1] != len(want) {
				t.Fatalf("watermarks %v", marks)
			}
			if size == 1 && len(marks) != len(want) {
				t.Fatalf("%d watermarks for %d messages", len(marks), len(want))
			}
			var got [][]byte
			if err := GetFrames(t.Context(), conn, []byte("u"), 300_000, func(b []byte) error {
				got = append(got, bytes.Clone(b))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			equalFrames(t, got, want)
		})
	}
}

func TestManySmallFramesStayWithinTheRowLimit(t *testing.T) {
	all := &sinks{}
	u := all.add("u", nil)
	conn := serveSinks(t, all, limits, watch{})
	want := make([][]byte, maxRows+3)
	for i := range want {
		want[i] = []byte{byte(i)}
	}
	if err := PutFrames(t.Context(), conn, "u", 0, feed(want, 0), 1<<20, ignore); err != nil {
		t.Fatal(err)
	}
	equalFrames(t, u.got(), want)
}

func TestNothingToSendIsAnEmptyStream(t *testing.T) {
	all := &sinks{}
	u := all.add("u", nil)
	conn := serveSinks(t, all, limits, watch{})
	if err := PutFrames(t.Context(), conn, "u", 0, feed(nil, 0), 1, ignore); err != nil {
		t.Fatal(err)
	}
	if err := GetFrames(t.Context(), conn, []byte("u"), 10, func([]byte) error { return errs.ErrState }); err != nil {
		t.Fatal(err)
	}
	equalFrames(t, u.got(), nil)
}

func TestCutUploadResumesWhereItWas(t *testing.T) {
	want := makeFrames(2, 2000, 100_000)
	ctx, cut := context.WithCancel(t.Context())
	ended := make(chan struct{}, 2)
	all := &sinks{}
	u := all.add("u", func(i int) error {
		if i == 900 {
			cut()
		}
		return nil
	})
	conn := serveSinks(t, all, limits, watch{ends: func() { ended <- struct{}{} }})
	if err := PutFrames(ctx, conn, "u", 0, feed(want, 0), 1000, ignore); status.Code(err) != codes.Canceled {
		t.Fatalf("a cut upload returned %v", err)
	}
	<-ended
	first := u.Next()
	if first < 900 || first >= len(want) {
		t.Fatalf("the cut upload has %d frames", first)
	}
	if err := PutFrames(t.Context(), conn, "u", first, feed(want, first), 1000, ignore); err != nil {
		t.Fatal(err)
	}
	equalFrames(t, u.got(), want)
}

// counted calls at when a stream's send number n begins.
type counted struct {
	grpc.ClientStream
	n, sent int
	at      func()
}

func (c *counted) SendMsg(m any) error {
	if c.sent++; c.sent == c.n {
		c.at()
	}
	return c.ClientStream.SendMsg(m)
}

func TestRefusalReachesABlockedSender(t *testing.T) {
	// The server reads nothing while Put waits. Its window is 64 KiB, so the
	// second batch of 2 MiB occupies the sender and the third cannot leave.
	sending := make(chan struct{})
	hook := grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := next(ctx, d, cc, method, o...)
		return &counted{ClientStream: s, n: 4, at: func() { close(sending) }}, err
	})
	all := &sinks{}
	all.add("u", func(int) error {
		<-sending
		return fmt.Errorf("frame 0: %w", errs.ErrChunkConflict)
	})
	conn := serveSinks(t, all, limits, watch{}, hook)
	frame := make([]byte, 2<<20)
	err := PutFrames(t.Context(), conn, "u", 0, func(emit func(int, []byte) error) error {
		for i := 0; ; i++ {
			if err := emit(i, frame); err != nil {
				return errors.New("sealing stopped") // a caller that loses the cause
			}
		}
	}, 1, ignore)
	wantError(t, err, errs.ErrChunkConflict)
	if _, ok := status.FromError(err); !ok {
		t.Fatalf("%v is not the server's status", err)
	}
}

func TestStreamsWaitForTheirTurn(t *testing.T) {
	const frames = 100
	begun, served, go_ := make(chan struct{}, 8), make(chan struct{}), make(chan struct{})
	all := &sinks{}
	a := all.add("a", func(i int) error {
		if i == 0 {
			close(served)
			<-go_
		}
		return nil
	})
	var early int
	b := all.add("b", func(i int) error {
		if i == 0 {
			early = frames - a.Next()
		}
		return nil
	})
	l := limits
	l.Streams = 1
	conn := serveSinks(t, all, l, watch{begins: func() { begun <- struct{}{} }})
	want := makeFrames(3, frames, 100)
	put := func(ctx context.Context, id string) chan error {
		done := make(chan error, 1)
		go func() { done <- PutFrames(ctx, conn, id, 0, feed(want, 0), 1, ignore) }()
		<-begun
		return done
	}
	first := put(t.Context(), "a")
	<-served // it has the place now; a stream that merely began may not
	// One that gives up while it waits takes nobody's place.
	ctx, cancel := context.WithCancel(t.Context())
	gone := put(ctx, "b")
	cancel()
	if err := <-gone; status.Code(err) != codes.Canceled {
		t.Fatalf("giving up returned %v", err)
	}
	if b.Next() != 0 {
		t.Fatal("a waiting stream was read")
	}
	second := put(t.Context(), "b")
	close(go_)
	for _, done := range []chan error{first, second} {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if early != 0 {
		t.Fatalf("the second stream was served %d frames before the end of the first", early)
	}
	equalFrames(t, a.got(), want)
	equalFrames(t, b.got(), want)
}

func TestOtherMethodsAreNotServed(t *testing.T) {
	c := wire.NewFlightServiceClient(serveSinks(t, &sinks{}, limits, watch{}))
	ctx := t.Context()
	streamed := func(s interface{ RecvMsg(any) error }, err error) error {
		if err != nil {
			return err
		}
		return s.RecvMsg(&flight.FlightData{})
	}
	for name, call := range map[string]func() error{
		"Handshake":      func() error { s, err := c.Handshake(ctx); return streamed(s, err) },
		"ListFlights":    func() error { s, err := c.ListFlights(ctx, &flight.Criteria{}); return streamed(s, err) },
		"GetFlightInfo":  func() error { _, err := c.GetFlightInfo(ctx, &flight.FlightDescriptor{}); return err },
		"PollFlightInfo": func() error { _, err := c.PollFlightInfo(ctx, &flight.FlightDescriptor{}); return err },
		"GetSchema":      func() error { _, err := c.GetSchema(ctx, &flight.FlightDescriptor{}); return err },
		"DoExchange":     func() error { s, err := c.DoExchange(ctx); return streamed(s, err) },
		"DoAction":       func() error { s, err := c.DoAction(ctx, &flight.Action{}); return streamed(s, err) },
		"ListActions":    func() error { s, err := c.ListActions(ctx, &flight.Empty{}); return streamed(s, err) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := call(); status.Code(err) != codes.Unimplemented {
				t.Fatalf("got %v", err)
			}
		})
	}
}
