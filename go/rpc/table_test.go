package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	wire "github.com/apache/arrow/go/v15/arrow/flight/gen/flight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
)

// allowed says, in the order client, aggregator, kms, admin, who may call
// what. A method that a service has and this list has not fails the test.
var allowed = map[string]string{
	"/cryptflow.v1.AggregatorService/Info":        "caka",
	"/cryptflow.v1.AggregatorService/CreateTask":  "---a",
	"/cryptflow.v1.AggregatorService/ListTasks":   "---a",
	"/cryptflow.v1.AggregatorService/GetTask":     "c--a",
	"/cryptflow.v1.AggregatorService/AbortTask":   "---a",
	"/cryptflow.v1.AggregatorService/Watch":       "c--a",
	"/cryptflow.v1.AggregatorService/PutModel":    "---a",
	"/cryptflow.v1.AggregatorService/GetModel":    "c--a",
	"/cryptflow.v1.AggregatorService/AwaitRound":  "c--a",
	"/cryptflow.v1.AggregatorService/BeginUpload": "c---",
	"/cryptflow.v1.AggregatorService/Commit":      "c---",
	"/cryptflow.v1.AggregatorService/GetResult":   "c--a",
	"/cryptflow.v1.KeyService/Info":               "caka",
	"/cryptflow.v1.KeyService/CreateTask":         "---a",
	"/cryptflow.v1.KeyService/GetTask":            "ca-a",
	"/cryptflow.v1.KeyService/OpenRound":          "-a--",
	"/cryptflow.v1.KeyService/GetSpec":            "ca--",
	"/cryptflow.v1.KeyService/Announce":           "c---",
	"/cryptflow.v1.KeyService/Deposit":            "c---",
	"/cryptflow.v1.KeyService/Decide":             "-a--",
	"/cryptflow.v1.KeyService/Abort":              "-a-a",
	"/cryptflow.v1.KeyService/GetDecision":        "ca-a",
	"/cryptflow.v1.KeyService/FetchRelease":       "c---",
	"/cryptflow.v1.KeyService/CloseRound":         "-a--",
	"/cryptflow.v1.KeyService/ReportResult":       "c---",
	"/cryptflow.v1.KeyService/Audit":              "---a",

	"/arrow.flight.protocol.FlightService/DoPut": "c---",
	"/arrow.flight.protocol.FlightService/DoGet": "c---",
	"/grpc.health.v1.Health/Check":               "caka",
	"/grpc.health.v1.Health/List":                "----",
	"/grpc.health.v1.Health/Watch":               "caka",
}

func methods(d grpc.ServiceDesc) (out []string) {
	for _, m := range d.Methods {
		out = append(out, "/"+d.ServiceName+"/"+m.MethodName)
	}
	for _, s := range d.Streams {
		out = append(out, "/"+d.ServiceName+"/"+s.StreamName)
	}
	return out
}

func TestEveryRoleTimesEveryMethod(t *testing.T) {
	for _, port := range []struct {
		table    identity.Table
		services []grpc.ServiceDesc
	}{
		{rpc.AggregatorTable(), []grpc.ServiceDesc{pb.AggregatorService_ServiceDesc, wire.FlightService_ServiceDesc, healthpb.Health_ServiceDesc}},
		{rpc.KeyTable(), []grpc.ServiceDesc{pb.KeyService_ServiceDesc, healthpb.Health_ServiceDesc}},
	} {
		var known []string
		for _, d := range port.services {
			known = append(known, methods(d)...)
		}
		for _, method := range known {
			want, listed := allowed[method]
			if !listed {
				want = "----"
				if d := "/arrow.flight.protocol.FlightService/"; len(method) < len(d) || method[:len(d)] != d {
					t.Errorf("%s is new: say here who may call it", method)
				}
			}
			for i, role := range identity.Roles() {
				err := port.table.Allow(identity.Identity{Domain: "d", Role: role, Name: "n"}, method)
				if may := want[i] != '-'; may != (err == nil) || (!may && !errors.Is(err, errs.ErrDenied)) {
					t.Errorf("%s calling %s: %v", role, method, err)
				}
			}
		}
		for method := range port.table {
			if !slices.Contains(known, method) {
				t.Errorf("the table lists %s, which no service has", method)
			}
		}
		for _, role := range append(identity.Roles(), "", "root", "Client") {
			for _, method := range []string{"", "/", "/cryptflow.v1.KeyService/", "/cryptflow.v1.KeyService/fetchrelease", "cryptflow.v1.KeyService/FetchRelease"} {
				if port.table.Allow(identity.Identity{Role: role}, method) == nil {
					t.Errorf("%q may call %q", role, method)
				}
			}
		}
	}
}

// TestErrorsKeepTheirCodeOnTheWire, and nothing of an internal one travels.
func TestErrorsKeepTheirCodeOnTheWire(t *testing.T) {
	for code, s := range errs.All() {
		sent := rpc.ToStatus(fmt.Errorf("doing something with %q: %w", "x", s))
		got := rpc.FromStatus(sent, "key service")
		if !errors.Is(got, s) {
			t.Errorf("%s arrived as %v", code, got)
		}
		if s.Kind == errs.Internal && got.Error() != s.Text {
			t.Errorf("%s says %q to its caller", code, got)
		}
	}
	if got := rpc.FromStatus(rpc.ToStatus(errors.New("secret detail")), "x"); !errors.Is(got, errs.ErrInternal) || got.Error() != errs.ErrInternal.Text {
		t.Errorf("an unknown error arrived as %v", got)
	}
	for _, x := range []struct{ in, want error }{
		{context.Canceled, errs.ErrCancelled},
		{context.DeadlineExceeded, errs.ErrTimeout},
		{nil, nil},
	} {
		if got := rpc.FromStatus(rpc.ToStatus(x.in), "x"); !errors.Is(got, x.want) {
			t.Errorf("%v arrived as %v", x.in, got)
		}
	}
}

// TestTransportErrorsSayWhatToDo: what a person reads has the system's reason,
// none of the layers above it, and a next step.
func TestTransportErrorsSayWhatToDo(t *testing.T) {
	tried := func(text string) string {
		return fmt.Sprintf("max retries exhausted: failed after 5 attempts: rpc error: code = Unavailable desc = connection error: desc = %q", "transport: "+text)
	}
	for _, x := range []struct {
		name, text string
		code       error
		want       string
	}{
		{"nobody listens", tried("Error while dialing: dial tcp 10.0.0.1:7443: connect: connection refused"), errs.ErrUnavailable,
			"the aggregator cannot be reached (dial tcp 10.0.0.1:7443: connect: connection refused); does it run, and is its address right?: service unavailable"},
		{"once", `connection error: desc = "transport: Error while dialing: EOF"`, errs.ErrUnavailable, "cannot be reached (EOF); does"},
		{"no such host", "max retries exhausted: failed after 5 attempts: rpc error: code = Unavailable desc = name resolver error: produced zero addresses", errs.ErrUnavailable, "cannot be reached (no address is known for its name); does"},
		{"another message", "draining", errs.ErrUnavailable, "cannot be reached (draining); does"},
		{"no TLS", tried("authentication handshake failed: tls: first record does not look like a TLS handshake"), errs.ErrConfig, "not its admin_listen"},
		{"another role", tried("authentication handshake failed: spiffe://a/kms/k answered where [aggregator] was expected: unsuitable certificate"), errs.ErrCertificate, "exchanged?"},
		{"another authority", tried("authentication handshake failed: tls: failed to verify certificate: x509: certificate signed by unknown authority"), errs.ErrCertificate, "the same ca.crt"},
		{"another host", tried("authentication handshake failed: tls: failed to verify certificate: x509: certificate is valid for a.test, not b.test"), errs.ErrCertificate, "--host"},
	} {
		t.Run(x.name, func(t *testing.T) {
			got := rpc.FromStatus(status.Error(codes.Unavailable, x.text), "aggregator")
			if !errors.Is(got, x.code) || !strings.Contains(got.Error(), x.want) || strings.Contains(got.Error(), "desc =") {
				t.Fatalf("%v, want %q", got, x.want)
			}
		})
	}
}

func TestTickets(t *testing.T) {
	spec, from, to, err := rpc.ParseTicket(rpc.Ticket([32]byte{1, 2}, 7, 9))
	if err != nil || spec != [32]byte{1, 2} || from != 7 || to != 9 {
		t.Fatal(spec, from, to, err)
	}
	for _, n := range []int{0, 39, 41} {
		if _, _, _, err := rpc.ParseTicket(make([]byte, n)); !errors.Is(err, errs.ErrArgument) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
