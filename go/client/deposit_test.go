package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/task"
)

// forgetful is a key service that stores a deposit and whose first reply is
// lost on its way. Like the real one it takes no other key for a deposit.
type forgetful struct {
	pb.KeyServiceClient
	t       *testing.T
	signing ed25519.PrivateKey
	stored  *pb.DepositRequest
}

func (k *forgetful) Deposit(_ context.Context, in *pb.DepositRequest, _ ...grpc.CallOption) (*pb.Signed, error) {
	if k.stored == nil {
		k.stored = proto.CloneOf(in)
		return nil, status.Error(codes.Unavailable, "the connection broke")
	}
	if !proto.Equal(k.stored, in) {
		k.t.Error("another key was deposited for the same contribution")
	}
	d, err := task.ParseDeposit(in.Deposit)
	if err != nil {
		return nil, err
	}
	signed := task.Sign(d, k.signing)
	return &pb.Signed{Object: signed.Bytes, Signature: signed.Signature}, nil
}

// TestALostReplyToADepositIsAskedForAgain, with the same bytes: sealing the key
// once more would make a deposit that the key service refuses.
func TestALostReplyToADepositIsAskedForAgain(t *testing.T) {
	for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		round, err := envelope.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		reply, err := envelope.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		secrets, err := seal.NewSecrets()
		if err != nil {
			t.Fatal(err)
		}
		x := &Client{name: "c", task: &task.Task{Mode: mode, KMS: task.Key(public)}, keys: &forgetful{t: t, signing: private}}
		c := &Contribution{Round: &Round{Spec: task.RoundSpec{HPKE: round.Public()}}, secrets: secrets, reply: reply}
		if err := x.depositKey(t.Context(), c); !errors.Is(err, errs.ErrUnavailable) {
			t.Fatalf("%v: %v, want CF_UNAVAILABLE", mode, err)
		}
		if x.open != c {
			t.Errorf("%v: a contribution that may count was forgotten", mode)
		}
		if err := x.depositKey(t.Context(), c); err != nil || c.deposit == nil {
			t.Errorf("%v: %v", mode, err)
		}
	}
}
