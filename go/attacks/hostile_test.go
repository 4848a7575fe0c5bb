package attacks

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"strings"

	"github.com/apache/arrow/go/v15/arrow/flight"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
)

// deed is one thing that an attacker does. What it opens stays open until
// release is called. Errors are what the attacker expects.
type deed func(ctx context.Context, a *attacker, n int) (release func())

// deeds are what hostile clients do, by name.
var deeds = map[string]deed{
	"silent streams":       silentStreams,
	"silent uploads":       silentUploads,
	"uploads not finished": unfinishedUploads,
	"junk task names":      junkNames,
	"big deposits":         bigDeposits,
	"connections":          manyConnections,
	"half messages":        halfMessages,
	"slow readers":         slowReaders,
}

// silentStreams opens streams for frames over several connections and says
// nothing.
func silentStreams(ctx context.Context, a *attacker, _ int) func() {
	ctx, cancel := context.WithCancel(ctx)
	var all []*grpc.ClientConn
	for range 4 {
		conn, err := rpc.Dial(a.profile.Aggregator, a.creds, identity.Aggregator, false)
		if err != nil {
			break
		}
		all = append(all, conn)
		for range 15 {
			if _, err := flight.NewFlightServiceClient(conn).DoPut(ctx); err != nil {
				break
			}
		}
	}
	return func() {
		cancel()
		for _, conn := range all {
			_ = conn.Close() // nothing of it is needed
		}
	}
}

// named opens a stream that names an upload and says nothing more.
func named(ctx context.Context, a *attacker, upload string) {
	s, err := flight.NewFlightServiceClient(a.sums).DoPut(ctx)
	if err != nil {
		return
	}
	_ = s.Send(&flight.FlightData{FlightDescriptor: &flight.FlightDescriptor{Type: flight.DescriptorPATH,
		Path: []string{upload}}})
}

// begun is an upload in the attackers' own task.
func (a *attacker) begun(ctx context.Context, fresh bool) string {
	s, err := a.rounds.AwaitRound(ctx, &pb.AwaitRequest{Task: "theirs", Latest: true, State: pb.RoundState_KEYED,
		Seconds: 1})
	if err != nil {
		return ""
	}
	u, err := a.rounds.BeginUpload(ctx, &pb.BeginRequest{Spec: s.Spec, Fresh: fresh})
	if err != nil {
		return ""
	}
	return u.Upload
}

func silentUploads(ctx context.Context, a *attacker, _ int) func() {
	ctx, cancel := context.WithCancel(ctx)
	upload := a.begun(ctx, false)
	for range 8 {
		named(ctx, a, upload)
	}
	return cancel
}

// unfinishedUploads begins uploads over and over and finishes none.
func unfinishedUploads(ctx context.Context, a *attacker, _ int) func() {
	ctx, cancel := context.WithCancel(ctx)
	for range 8 {
		named(ctx, a, a.begun(ctx, true))
	}
	return cancel
}

// junkNames asks for tasks that do not exist, by long names, and waits for
// them.
func junkNames(ctx context.Context, a *attacker, n int) func() {
	ctx, cancel := context.WithCancel(ctx)
	for i := range 12 {
		short := fmt.Sprintf("none-%d-%d", n, i)
		long := short + strings.Repeat("\x01\"", 4<<10)
		for _, name := range []string{short, long, strings.Repeat("z", 900<<10)} {
			_, _ = a.rounds.AwaitRound(ctx, &pb.AwaitRequest{Task: name, Seconds: 20})
			_, _ = a.keys.GetTask(ctx, &pb.TaskName{Name: name})
			if s, err := a.rounds.Watch(ctx, &pb.TaskName{Name: name}); err == nil {
				_, _ = s.Recv()
			}
		}
	}
	return cancel
}

// bigDeposits sends keys of a megabyte, in known fields and in others.
func bigDeposits(ctx context.Context, a *attacker, _ int) func() {
	junk := bytes.Repeat([]byte{7}, 1000<<10)
	in := &pb.DepositRequest{Deposit: junk[:100]}
	in.ProtoReflect().SetUnknown(append([]byte{0xfa, 0x01, 0xd0, 0x86, 0x03}, bytes.Repeat([]byte{1}, 50000)...))
	for _, x := range []*pb.DepositRequest{{Deposit: junk}, {Sealed: junk}, {ReplyKey: junk}, in} {
		_, _ = a.keys.Deposit(ctx, x)
	}
	return func() {}
}

// manyConnections opens connections, some of which never shake hands.
func manyConnections(_ context.Context, a *attacker, n int) func() {
	var all []net.Conn
	pair, err := tls.LoadX509KeyPair(a.profile.Certificate, a.profile.Key)
	if err != nil {
		return func() {}
	}
	for i := range 16 {
		address := a.profile.Aggregator
		if (n+i)%2 == 0 {
			address = a.profile.KMS
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			continue
		}
		if i%4 != 0 {
			s := tls.Client(c, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair},
				NextProtos: []string{"h2"}})
			if s.Handshake() == nil {
				_, _ = s.Write([]byte(http2.ClientPreface))
			}
			c = s
		}
		all = append(all, c)
	}
	return func() {
		for _, c := range all {
			_ = c.Close() // the service may have
		}
	}
}

// halfMessages sends most of large messages, to methods that take them and to
// others, and never the rest.
func halfMessages(_ context.Context, a *attacker, _ int) func() {
	pair, err := tls.LoadX509KeyPair(a.profile.Certificate, a.profile.Key)
	if err != nil {
		return func() {}
	}
	c, err := tls.Dial("tcp", a.profile.Aggregator, &tls.Config{InsecureSkipVerify: true,
		Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}})
	if err != nil {
		return func() {}
	}
	go func() { // what the service says is of no interest
		b := make([]byte, 4<<10)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	}()
	_, _ = c.Write([]byte(http2.ClientPreface))
	f := http2.NewFramer(c, nil)
	_ = f.WriteSettings()
	var heads bytes.Buffer
	e := hpack.NewEncoder(&heads)
	message := binary.BigEndian.AppendUint32([]byte{0}, 1<<20-100)
	message = append(message, make([]byte, 15<<10)...)
	for i, method := range []string{
		"/arrow.flight.protocol.FlightService/DoPut", "/arrow.flight.protocol.FlightService/DoPut",
		"/cryptflow.v1.AggregatorService/GetTask", "/cryptflow.v1.AggregatorService/Commit",
		"/cryptflow.v1.AggregatorService/Nothing",
	} {
		heads.Reset()
		for _, h := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":path", method}, {":authority", "x"},
			{"content-type", "application/grpc"}, {"te", "trailers"}} {
			_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		stream := uint32(2*i + 1)
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: heads.Bytes(), EndHeaders: true})
		_ = f.WriteData(stream, false, message)
		for range 14 { // within the window of a stream
			if f.WriteData(stream, false, make([]byte, 16<<10)) != nil {
				break
			}
		}
	}
	return func() { _ = c.Close() }
}

// slowReaders asks for a model, over several connections with the smallest
// windows, and reads nothing of it.
func slowReaders(ctx context.Context, a *attacker, _ int) func() {
	ctx, cancel := context.WithCancel(ctx)
	var all []*grpc.ClientConn
	for range 3 {
		conn, err := rpc.Dial(a.profile.Aggregator, a.creds, identity.Aggregator, false,
			grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10))
		if err != nil {
			break
		}
		all = append(all, conn)
		for range 6 {
			if _, err := pb.NewAggregatorServiceClient(conn).GetModel(ctx, &pb.TaskName{Name: "theirs"}); err != nil {
				break
			}
		}
	}
	return func() {
		cancel()
		for _, conn := range all {
			_ = conn.Close() // nothing of it is needed
		}
	}
}
