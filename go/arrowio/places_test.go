package arrowio

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/flight"
	"google.golang.org/grpc/metadata"

	"github.com/cryptflow/cryptflow/go/errs"
)

// by is a context whose calls are of somebody.
func by(ctx context.Context, who string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "who", who)
}

// whose is the other end of by.
func whose(ctx context.Context) string {
	if m, ok := metadata.FromIncomingContext(ctx); ok && len(m.Get("who")) == 1 {
		return m.Get("who")[0]
	}
	return ""
}

// TestSilentUploadsHoldNobodyUp: streams that name an upload, or name none,
// and then say nothing, keep no place from a stream that moves.
func TestSilentUploadsHoldNobodyUp(t *testing.T) {
	all := &sinks{}
	mine := all.add("mine", nil)
	l := limits
	l.Streams, l.Idle, l.Patience, l.Caller = 2, time.Hour, time.Millisecond, whose
	begun := make(chan struct{}, 300)
	conn := serveSinks(t, all, l, watch{begins: func() { begun <- struct{}{} }})
	const silent = 120
	for i := range 2 * silent {
		ctx := by(t.Context(), fmt.Sprint("hostile ", i%8))
		s, err := flight.NewFlightServiceClient(conn).DoPut(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if i >= silent {
			id := fmt.Sprint("theirs ", i)
			all.add(id, nil)
			if err := s.Send(stream(id, makeFrames(1, 3, 10), 1)[0]); err != nil {
				t.Fatal(err)
			}
		}
		<-begun
	}
	want := makeFrames(3, 200, 100)
	if err := PutFrames(by(t.Context(), "honest"), conn, "mine", 0, feed(want, 0), 1, ignore); err != nil {
		t.Fatal(err)
	}
	equalFrames(t, mine.got(), want)
}

// TestSlowReadersHoldNobodyUp: downloads that nobody reads keep no place from
// one that is read.
func TestSlowReadersHoldNobodyUp(t *testing.T) {
	all := &sinks{}
	u := all.add("u", nil)
	u.frames = makeFrames(4, 400, 9000)
	for range 40 { // more than windows hold
		u.frames = append(u.frames, make([]byte, 64<<10))
	}
	l := limits
	l.Streams, l.Idle, l.Patience, l.Caller = 2, time.Hour, time.Millisecond, whose
	begun := make(chan struct{}, 300)
	conn := serveSinks(t, all, l, watch{begins: func() { begun <- struct{}{} }})
	for i := range 60 {
		if _, err := flight.NewFlightServiceClient(conn).DoGet(by(t.Context(), fmt.Sprint("hostile ", i%8)),
			&flight.Ticket{Ticket: []byte("u")}); err != nil {
			t.Fatal(err)
		}
		<-begun
	}
	var got [][]byte
	if err := GetFrames(by(t.Context(), "honest"), conn, []byte("u"), 1<<20, func(b []byte) error {
		got = append(got, append([]byte(nil), b...))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	equalFrames(t, got, u.frames)
}

// TestStreamsThatNameNothingAreFew: of those whose first message does not come
// the oldest is ended.
func TestStreamsThatNameNothingAreFew(t *testing.T) {
	all := &sinks{}
	conn := serveSinks(t, all, limits, watch{})
	var streams []flight.FlightService_DoPutClient
	for range lobbySize + 1 {
		s, err := flight.NewFlightServiceClient(conn).DoPut(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	ends := make(chan error, len(streams))
	for _, s := range streams {
		go func() {
			_, err := s.Recv()
			ends <- err
		}()
	}
	wantError(t, <-ends, errs.ErrTimeout)
	stillServes(t, conn, all)
}

// TestPlacesGoToWhoHadLeast, among those who wait, and are taken from who
// holds most.
func TestPlacesGoToWhoHadLeast(t *testing.T) {
	p := newPlaces(2, time.Second)
	began := time.Now()
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	seats := map[string]*seat{}
	ask := func(name, who string, now time.Time) *seat {
		s := p.join(who)
		s.waits = true
		p.queue = append(p.queue, s)
		p.assign(now)
		seats[name] = s
		return s
	}
	has := func(names ...string) {
		t.Helper()
		if len(p.taken) != len(names) {
			t.Fatalf("%d places are taken, want %v", len(p.taken), names)
		}
		for _, n := range names {
			if _, ok := p.taken[seats[n]]; !ok {
				t.Fatalf("%s has no place", n)
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	ask("a1", "a", at(0))
	ask("a2", "a", at(0))
	ask("a3", "a", at(0))
	ask("b1", "b", at(0))
	has("a1", "a2")
	p.reclaim(at(0)) // nobody stands still for long yet
	has("a1", "a2")
	seats["a2"].moved = at(9)
	p.reclaim(at(9)) // a1 does
	has("a2", "b1")  // a had nine seconds, b none
	if _, slow := p.slow[seats["a1"]]; !slow {
		t.Fatal("the stream that lost its place is not known as slow")
	}
	seats["b1"].moved = at(10)
	ask("c1", "c", at(10))
	if !p.gives(seats["a2"], at(10)) || !p.gives(seats["b1"], at(12)) {
		t.Fatal("a stream keeps its place for ever")
	}
	p.release(seats["a2"], at(10))
	p.assign(at(10))
	has("b1", "c1") // not a3, which came first
	for len(p.slow) <= slowSeats*p.size {
		s := p.join("d")
		s.moved = at(11)
		p.slow[s] = struct{}{}
	}
	p.endSlowest(at(4))
	select {
	case <-seats["a1"].cut:
		t.Fatal("ended early")
	default:
	}
	p.endSlowest(at(60))
	select {
	case <-seats["a1"].cut:
	default:
		t.Fatal("the slowest of too many goes on")
	}
}
