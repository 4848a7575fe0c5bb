package rpc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
)

// waits is a service whose answers wait.
type waits struct {
	pb.UnimplementedKeyServiceServer
	entered chan struct{}
	release chan struct{}
}

func (w *waits) Info(ctx context.Context, _ *pb.Empty) (*pb.ServiceInfo, error) {
	w.entered <- struct{}{}
	select {
	case <-w.release:
		return &pb.ServiceInfo{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// limited starts a service with limits and returns how a client dials it.
func limited(t *testing.T, l Limits, w *waits) func() *grpc.ClientConn {
	t.Helper()
	folder := t.TempDir()
	ca, err := identity.NewAuthority(folder, "d", time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	load := func(role identity.Role, hosts ...string) *identity.Credentials {
		crt, key, err := ca.Issue(t.TempDir(), identity.Identity{Domain: "d", Role: role, Name: "x"}, hosts,
			time.Minute, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		c, err := identity.Load(crt, key, filepath.Join(folder, identity.CACertificate), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	s := NewServer(load(identity.KMS, "127.0.0.1"), KeyTable(), l, slog.New(slog.DiscardHandler), nil, nil)
	pb.RegisterKeyServiceServer(s, w)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(listener) }()
	t.Cleanup(func() { s.Stop(); <-done })
	mine := load(identity.Client)
	return func() *grpc.ClientConn {
		conn, err := Dial(listener.Addr().String(), mine, identity.KMS, false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
}

// TestOneIdentityHasSoManyCalls, over however many connections.
func TestOneIdentityHasSoManyCalls(t *testing.T) {
	l := DefaultLimits()
	l.Calls = 6
	w := &waits{entered: make(chan struct{}, 20), release: make(chan struct{})}
	dial := limited(t, l, w)
	ends := make(chan error, 20)
	conns := []*grpc.ClientConn{dial(), dial()}
	for i := range l.Calls {
		go func() {
			_, err := pb.NewKeyServiceClient(conns[i%2]).Info(t.Context(), &pb.Empty{})
			ends <- err
		}()
		<-w.entered
	}
	if _, err := pb.NewKeyServiceClient(conns[0]).Info(t.Context(), &pb.Empty{}); !errors.Is(FromStatus(err, "x"),
		errs.ErrLimit) {
		t.Fatalf("one more: %v", err)
	}
	close(w.release)
	for range l.Calls {
		if err := <-ends; err != nil {
			t.Error(err)
		}
	}
	if _, err := pb.NewKeyServiceClient(conns[1]).Info(t.Context(), &pb.Empty{}); err != nil {
		t.Errorf("after the others: %v", err)
	}
}

// TestOneIdentityHasSoManyConnections: a further one closes the one that was
// silent longest.
func TestOneIdentityHasSoManyConnections(t *testing.T) {
	l := DefaultLimits()
	l.Connections = 2
	w := &waits{entered: make(chan struct{}, 20), release: make(chan struct{})}
	dial := limited(t, l, w)
	first := make(chan error, 1)
	conn := dial()
	go func() {
		_, err := pb.NewKeyServiceClient(conn).Info(t.Context(), &pb.Empty{})
		first <- err
	}()
	<-w.entered
	for range l.Connections {
		if _, err := healthpb.NewHealthClient(dial()).Check(t.Context(),
			&healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unimplemented {
			t.Fatal(err)
		}
	}
	select {
	case err := <-first:
		if err == nil {
			t.Fatal("the oldest connection goes on")
		}
	case <-w.entered: // it began again over another connection
		close(w.release)
		<-first
	}
}

// TestACallWithoutItsMessageEnds, and its place with it.
func TestACallWithoutItsMessageEnds(t *testing.T) {
	l := DefaultLimits()
	l.First = time.Millisecond
	dial := limited(t, l, &waits{})
	s, err := dial().NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, keys+"Deposit")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&pb.Signed{}); err == nil {
		t.Fatal("it was answered")
	}
}

// TestUnknownFieldsAreForgotten, at any depth.
func TestUnknownFieldsAreForgotten(t *testing.T) {
	junk := protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), make([]byte, 1000))
	in := &pb.CommitRequest{Upload: "u", Deposit: &pb.Signed{Object: []byte("o")}}
	want := proto.Clone(in)
	in.ProtoReflect().SetUnknown(junk)
	in.Deposit.ProtoReflect().SetUnknown(junk)
	forget(in)
	if !proto.Equal(in, want) || proto.Size(in) != proto.Size(want) {
		t.Fatalf("%d bytes are left, want %d", proto.Size(in), proto.Size(want))
	}
	tasks := &pb.TaskList{Tasks: []*pb.TaskStatus{{Task: &pb.Signed{}}}}
	tasks.Tasks[0].Task.ProtoReflect().SetUnknown(junk)
	forget(tasks)
	if n := proto.Size(tasks); n > 10 {
		t.Fatalf("%d bytes are left in a list", n)
	}
}

// TestAFullDiskLeavesRoomForDecisions: what ends rounds goes on, what stores
// something new does not.
func TestAFullDiskLeavesRoomForDecisions(t *testing.T) {
	folder := t.TempDir()
	full, roomy := KeepFree(folder, 1<<62), KeepFree(folder, 0)
	for method := range KeyTable() {
		if err := roomy(method); err != nil {
			t.Errorf("%s with room: %v", method, err)
		}
	}
	for _, m := range []string{"CreateTask", "OpenRound", "Deposit", "SomethingNew"} {
		if err := full(keys + m); !errors.Is(err, errs.ErrDiskFull) {
			t.Errorf("%s without room: %v", m, err)
		}
	}
	for _, m := range []string{"Decide", "Abort", "FetchRelease", "CloseRound", "ReportResult"} {
		if err := full(keys + m); err != nil {
			t.Errorf("%s without room: %v", m, err)
		}
	}
}
