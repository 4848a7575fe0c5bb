package aggregator

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/segment"
	"github.com/cryptflow/cryptflow/go/storage/sqlite"
	"github.com/cryptflow/cryptflow/go/task"
)

// forgetful is a key service that was recovered from a backup.
type forgetful struct{ pb.KeyServiceClient }

func (forgetful) CloseRound(context.Context, *pb.Signed, ...grpc.CallOption) (*pb.Empty, error) {
	return nil, rpc.ToStatus(errs.ErrLost)
}

func (forgetful) GetDecision(context.Context, *pb.SpecId, ...grpc.CallOption) (*pb.DecisionReply, error) {
	return nil, rpc.ToStatus(errs.ErrLost)
}

// TestAPublishedRoundThatTheKeyServiceForgotEndsItsTask: its result is presented
// once, and not for ever.
func TestAPublishedRoundThatTheKeyServiceForgotEndsItsTask(t *testing.T) {
	folder := t.TempDir()
	ledger, err := sqlite.Open(filepath.Join(folder, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := segment.Open(filepath.Join(folder, "blobs"), segment.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ledger.Close(), blobs.Close() })
	_, own, _ := ed25519.GenerateKey(nil)
	tk := &task.Task{
		Name: "t", Mode: params.SumKey, Preset: "n4096-q102", Bits: 16, Rounding: params.NearestEven, Encoding: params.Lanes,
		Ranges: task.RangesFixed, Layout: task.Layout{{Name: "w", Shape: []uint64{100}, Range: 1}}, WeightCap: 1,
		Members:    []task.Member{{Name: "a", Organisation: "a"}, {Name: "b", Organisation: "b"}},
		MaxClients: 2, MinCohort: 2, Deadline: 60, Rounds: 3,
		Aggregator: task.Key(own.Public().(ed25519.PublicKey)), KMS: task.Key{1},
	}
	spec := &task.RoundSpec{Task: task.DigestOf(tk), Kind: task.KindValues, HPKE: []byte{1}}
	digest := task.DigestOf(spec)
	if err := ledger.Update(t.Context(), func(w storage.Writer) error {
		x := &roundRow{State: task.RoundPublished, Spec: spec.Canonical(), Result: []byte{1}}
		for _, err := range []error{
			putRow(w, bucketTask, "t", &taskRow{Task: tk.Canonical(), HasModel: true, Published: 1}),
			putRow(w, bucketSpec, digest.String(), &specRow{Task: "t"}),
			putRow(w, bucketRound, roundKey("t", 0), x),
			w.Put(bucketLive, "t/"+digest.String(), []byte{}),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s := &Service{c: Config{
		Ledger: ledger, Blobs: blobs, Signing: own, Keys: forgetful{}, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}}
	for again := true; again; {
		if again, _, err = s.step(t.Context(), "t"); err != nil {
			t.Fatal(err)
		}
	}
	if err := ledger.View(t.Context(), func(r storage.Reader) error {
		_, row, err := taskOf(r, "t")
		if err == nil && (row.Round != 0 || !strings.Contains(row.Ended, "the admin creates a new task")) {
			t.Errorf("the task goes on: %+v", row)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
