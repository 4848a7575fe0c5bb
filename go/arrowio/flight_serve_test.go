package arrowio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/cryptflow/cryptflow/go/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var limits = FlightLimits{Streams: 4, MessageBytes: 4 << 20, BatchBytes: 64 << 10}

// sink is an upload in memory.
type sink struct {
	mu     sync.Mutex
	frames [][]byte
	before func(index int) error // of each Put
}

func (s *sink) Next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.frames)
}

func (s *sink) Put(index int, frame []byte) error {
	if s.before != nil {
		if err := s.before(index); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if index > len(s.frames) {
		return errs.ErrChunkOrder
	}
	if index < len(s.frames) {
		if !bytes.Equal(s.frames[index], frame) {
			return errs.ErrChunkConflict
		}
		return nil
	}
	s.frames = append(s.frames, bytes.Clone(frame))
	return nil
}

func (s *sink) got() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.frames)
}

// sinks is every upload by name, and serves them as downloads.
type sinks struct {
	mu     sync.Mutex
	byName map[string]*sink
}

func (s *sinks) add(id string, before func(int) error) *sink {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byName == nil {
		s.byName = map[string]*sink{}
	}
	s.byName[id] = &sink{before: before}
	return s.byName[id]
}

func (s *sinks) find(id string) (*sink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.byName[id]; u != nil {
		return u, nil
	}
	return nil, errs.ErrUpload
}

func (s *sinks) Upload(_ context.Context, id string) (Upload, error) {
	u, err := s.find(id)
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (s *sinks) Frames(_ context.Context, ticket []byte, emit func([]byte) error) error {
	u, err := s.find(string(ticket))
	if err != nil {
		return err
	}
	scratch := make([]byte, 1<<20) // every frame in the same memory
	for _, f := range u.got() {
		n := copy(scratch, f)
		if err := emit(scratch[:n]); err != nil {
			return err
		}
	}
	return nil
}

// watch hears of streams as they reach and leave the server's handlers.
type watch struct{ begins, ends func() }

// mapped stands for the service's interceptor.
func mapped(w watch) grpc.ServerOption {
	return grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if w.begins != nil {
			w.begins()
		}
		err := next(srv, s)
		if w.ends != nil {
			defer w.ends()
		}
		if _, ok := status.FromError(err); ok {
			return err
		}
		return status.Error(codes.Unknown, errs.Format(err))
	})
}

// serve starts a server and returns a connection to it.
func serve(t testing.TB, register func(*grpc.Server), w watch, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	s := grpc.NewServer(mapped(w), grpc.InitialWindowSize(64<<10), grpc.InitialConnWindowSize(1<<20))
	register(s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func serveSinks(t testing.TB, s *sinks, l FlightLimits, w watch, options ...grpc.DialOption) *grpc.ClientConn {
	return serve(t, func(g *grpc.Server) { RegisterFlight(g, s, s, l) }, w, options...)
}

// wantError reports whether err is the sentinel, directly or from the wire.
func wantError(t *testing.T, err error, want error) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v", want)
	}
	if !errors.Is(err, want) && !errors.Is(errs.Parse(status.Convert(err).Message()), want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func makeFrames(seed uint64, n, largest int) [][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([][]byte, n)
	for i := range out {
		size := 1 + r.IntN(400)
		if i%500 == 7 {
			size = 1 + r.IntN(largest)
		}
		out[i] = make([]byte, size)
		for k := range out[i] {
			out[i][k] = byte(r.Uint32())
		}
	}
	return out
}

// feed emits frames in order from one piece of memory.
func feed(frames [][]byte, first int) func(func(int, []byte) error) error {
	return func(emit func(int, []byte) error) error {
		var scratch []byte
		for i := first; i < len(frames); i++ {
			scratch = append(scratch[:0], frames[i]...)
			if err := emit(i, scratch); err != nil {
				return fmt.Errorf("sealing: %w", err)
			}
			clear(scratch)
		}
		return nil
	}
}

func ignore(int) {}

func equalFrames(t *testing.T, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("frame %d differs", i)
		}
	}
}
