package aggregator

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/segment"
	"github.com/cryptflow/cryptflow/go/storage/sqlite"
	"github.com/cryptflow/cryptflow/go/task"
)

// between is a ledger that runs a function after a snapshot was read and before
// the reader learns what it saw: whatever can happen in that gap does.
type between struct {
	storage.Ledger
	then func()
}

func (l *between) View(ctx context.Context, f func(storage.Reader) error) error {
	err := l.Ledger.View(ctx, f)
	if then := l.then; then != nil {
		l.then = nil
		then()
	}
	return err
}

// TestACommitThatOvertakesIsNotBegunAgain: a client whose commit was cut off
// asks where its upload stands while the first request still runs. It is told
// that everything arrived, never to send the frames again: it could not.
func TestACommitThatOvertakesIsNotBegunAgain(t *testing.T) {
	folder := t.TempDir()
	inner, err := sqlite.Open(filepath.Join(folder, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	ledger := &between{Ledger: inner}
	blobs, err := segment.Open(filepath.Join(folder, "blobs"), segment.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ledger.Close(), blobs.Close() })
	_, own, _ := ed25519.GenerateKey(nil)
	_, keys, _ := ed25519.GenerateKey(nil)
	tk := &task.Task{
		Name: "t", Mode: params.SumKey, Preset: "n4096-q102", Bits: 16, Rounding: params.NearestEven, Encoding: params.Lanes,
		Ranges: task.RangesFixed, Layout: task.Layout{{Name: "w", Shape: []uint64{100}, Range: 1}}, WeightCap: 1,
		Members:    []task.Member{{Name: "a", Organisation: "a"}, {Name: "b", Organisation: "b"}},
		MaxClients: 2, MinCohort: 2, Deadline: 60, Rounds: 1,
		Aggregator: task.Key(own.Public().(ed25519.PublicKey)), KMS: task.Key(keys.Public().(ed25519.PublicKey)),
	}
	spec := &task.RoundSpec{Task: task.DigestOf(tk), Kind: task.KindValues, HPKE: []byte{1}}
	digest := task.DigestOf(spec)
	if err := inner.Update(t.Context(), func(w storage.Writer) error {
		if err := putRow(w, bucketTask, "t", &taskRow{Task: tk.Canonical()}); err != nil {
			return err
		}
		if err := putRow(w, bucketSpec, digest.String(), &specRow{Task: "t"}); err != nil {
			return err
		}
		return putRow(w, bucketRound, roundKey("t", 0), &roundRow{State: task.RoundKeyed, Spec: spec.Canonical()})
	}); err != nil {
		t.Fatal(err)
	}
	s := &Service{
		c:       Config{Ledger: ledger, Blobs: blobs, Signing: own, Log: slog.New(slog.DiscardHandler), Now: time.Now},
		uploads: map[string]*transfer{}, engines: map[string]chan struct{}{}, waiting: map[string]*waiters{},
	}
	ctx := rpc.WithCaller(t.Context(), identity.Identity{Domain: "d", Role: identity.Client, Name: "a"})
	first, err := s.BeginUpload(ctx, &pb.BeginRequest{Spec: digest[:], Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	u := s.uploads[first.Upload]
	for range u.geometry.Frames() { // as if each frame had arrived
		u.leaves = append(u.leaves, merkle.Hash{})
		u.tree.Append(merkle.Hash{})
	}
	root := task.Digest(u.tree.Root())
	receipt := task.Sign(&task.Deposit{Spec: digest, Client: "a", ModelDigest: spec.ModelDigest, Root: root}, keys)
	commit := &pb.CommitRequest{
		Upload: first.Upload, Spec: digest[:], Root: root[:], Weight: 1,
		Deposit: &pb.Signed{Object: receipt.Bytes, Signature: receipt.Signature},
	}
	ledger.then = func() {
		if _, err := s.Commit(ctx, commit); err != nil {
			t.Error(err)
		}
	}
	again, err := s.BeginUpload(ctx, &pb.BeginRequest{Spec: digest[:]})
	if err != nil {
		t.Fatal(err)
	}
	if int(again.Next) != u.geometry.Frames() {
		t.Fatalf("told to send from frame %d of %d", again.Next, u.geometry.Frames())
	}
	if again, err = s.BeginUpload(ctx, &pb.BeginRequest{Spec: digest[:]}); err != nil || again.Upload != "" {
		t.Fatalf("a committed contribution has upload %q, %v", again.GetUpload(), err)
	}
	if _, err := s.Commit(ctx, commit); err != nil {
		t.Fatalf("the same commit again: %v", err)
	}
}
