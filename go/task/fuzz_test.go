package task_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/task"
)

// inverse fuzzes one parser: whatever it takes, its canonical bytes are what it
// was given; everything else is an error with one of the codes.
func inverse[T task.Object](f *testing.F, parse func([]byte) (T, error), codes []error, seeds ...task.Object) {
	for _, x := range seeds {
		b := x.Canonical()
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(bytes.Clone(b), 0))
		f.Add(bytes.Replace(b, []byte("/v1/"), []byte("/v2/"), 1))
	}
	f.Add([]byte{})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parse(b)
		if err != nil {
			for _, code := range append(codes, errs.ErrCanonical) {
				if errors.Is(err, code) {
					return
				}
			}
			t.Fatalf("an error of another code: %v", err)
		}
		if !bytes.Equal(got.Canonical(), b) {
			t.Fatal("two byte strings for one object")
		}
	})
}

func FuzzTask(f *testing.F) {
	shared := sample()
	shared.Mode, shared.WeightCap, shared.Metrics, shared.Ranges = params.SharedKey, 3, []string{"accuracy", "loss"}, task.RangesNegotiated
	inverse(f, task.ParseTask, []error{errs.ErrArgument, errs.ErrLayout, errs.ErrParameters}, sample(), shared, extended())
}

func FuzzRoundSpec(f *testing.F) {
	inverse(f, task.ParseRoundSpec, nil, objects()["spec"].object, &task.RoundSpec{HPKE: make([]byte, 1216)})
}

func FuzzManifest(f *testing.F) {
	inverse(f, task.ParseManifest, []error{errs.ErrManifest}, objects()["manifest"].object, &task.Manifest{})
}

func FuzzReceipt(f *testing.F) { inverse(f, task.ParseReceipt, nil, objects()["receipt"].object) }

func FuzzDeposit(f *testing.F) { inverse(f, task.ParseDeposit, nil, objects()["deposit"].object) }

func FuzzDecision(f *testing.F) {
	inverse(f, task.ParseDecision, nil, objects()["released"].object, objects()["aborted"].object)
}

func FuzzResult(f *testing.F) { inverse(f, task.ParseResult, nil, objects()["result"].object) }

func FuzzRelease(f *testing.F) {
	x := &task.Release{Spec: task.Digest{1}, Manifest: task.Digest{2}, Mode: params.SumKey, Terms: 3, Weights: 3, Squares: 3, Secret: []int32{-1, 0, 40, -1 << 31}}
	inverse(f, task.ParseRelease, nil, x, &task.Release{})
}

// FuzzSigned: only the bytes that were signed verify, under the key that
// signed them.
func FuzzSigned(f *testing.F) {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	key := task.Key(private.Public().(ed25519.PublicKey))
	good := task.Sign(sample(), private)
	f.Add(good.Bytes, good.Signature, key[:])
	f.Add(good.Bytes[1:], good.Signature, key[:])
	f.Add(good.Bytes, good.Signature[1:], key[:])
	f.Add([]byte{}, []byte{}, []byte{})
	f.Add([]byte("x"), make([]byte, 64), make([]byte, 32)) // a point of small order
	f.Fuzz(func(t *testing.T, b, signature, by []byte) {
		k := key
		copy(k[:], by)
		s := task.Signed{Bytes: b, Signature: signature}
		if err := s.Verify(k); err == nil {
			if k == key && !(bytes.Equal(b, good.Bytes) && bytes.Equal(signature, good.Signature)) {
				t.Fatal("a signature that nobody made")
			}
		} else if !errors.Is(err, errs.ErrSignature) {
			t.Fatalf("%v", err)
		}
	})
}

// FuzzDigest: the text of a digest has one form that is read back.
func FuzzDigest(f *testing.F) {
	f.Add(task.Digest{1, 2}.String())
	f.Add("AB" + task.Digest{}.String()[2:])
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := task.ParseDigest(s)
		if err != nil {
			if !errors.Is(err, errs.ErrArgument) {
				t.Fatal(err)
			}
			return
		}
		if again, err := task.ParseDigest(d.String()); err != nil || again != d || len(s) != 64 {
			t.Fatalf("%q is read as %s", s, d)
		}
	})
}
