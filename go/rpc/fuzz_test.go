package rpc_test

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
)

func FuzzTicket(f *testing.F) {
	f.Add(rpc.Ticket([32]byte{1}, 0, 7))
	f.Add(rpc.Ticket([32]byte{1}, 1<<31-1, 1<<31-1)[:39])
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		spec, from, to, err := rpc.ParseTicket(b)
		if err != nil {
			if !errors.Is(err, errs.ErrArgument) {
				t.Fatal(err)
			}
			return
		}
		if from < 0 || to < 0 || !bytes.Equal(rpc.Ticket(spec, from, to), b) {
			t.Fatalf("%x reads as frames %d to %d", b, from, to)
		}
	})
}

// FuzzStatus: what a service says of an error never panics the caller, and
// what is known comes back as what it was.
func FuzzStatus(f *testing.F) {
	f.Add(uint32(codes.Internal), errs.Format(errs.ErrFrame))
	f.Add(uint32(codes.Unavailable), "CF_")
	f.Add(uint32(codes.Unknown), "tls: x509: ")
	f.Add(uint32(99), "")
	f.Fuzz(func(t *testing.T, code uint32, text string) {
		err := rpc.FromStatus(status.Error(codes.Code(code), text), "aggregator")
		if code == 0 {
			return // no error
		}
		if err == nil {
			t.Fatal("an error became none")
		}
		found := errs.Find(err)
		if found == nil {
			t.Fatalf("%q has no code", err)
		}
		if again := errs.Parse(errs.Format(err)); !errors.Is(again, found) {
			t.Fatalf("%v came back as %v", err, again)
		}
	})
}
