package seal_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"github.com/cryptflow/cryptflow/go/canary"
	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
)

// withCanaries is a round of one small tensor.
func withCanaries(t testing.TB, preset string, canaries int) seal.Round {
	t.Helper()
	r, _ := roundOf(t, choice(preset, params.SumKey, 8, 3, 1, params.NearestEven), [2]int64{20, 3}, 4)
	r.Canaries = canaries
	return r
}

// TestARoundWithCanaries opens to the same values as one without; its frames
// differ in the control chunk alone, and its canaries are under the client's key.
func TestARoundWithCanaries(t *testing.T) {
	for _, p := range params.Presets() {
		open := func(canaries int, bend func(control []byte, h frame.Header)) ([]float32, [][][]byte, error) {
			r := withCanaries(t, p.Name, canaries)
			g := r.Geometry()
			var frames [][][]byte
			var seeds []ckks.Seed
			var members []seal.Member
			for i := range 3 {
				values := make([]float32, r.Values())
				for k := range values {
					values[k] = float32(i*k%7)/16 - 0.2
				}
				secrets := secretsOf(i)
				s, err := seal.NewSealer(r, secrets, values, 2, 2, seal.From(clientName(i)))
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := s.Canary(); ok {
					t.Fatal("canaries before the control frame")
				}
				frames = append(frames, contribution(t, s))
				seeds, members = append(seeds, secrets.Key), append(members, seal.Member{Client: clientName(i), Weight: 1})
				own, ok := s.Canary()
				if ok != (canaries > 0) {
					t.Fatalf("canaries: %t", ok)
				}
				if !ok {
					continue
				}
				residues, err := g.CanaryResidues(own)
				if err != nil {
					t.Fatal(err)
				}
				if err := ckks.CheckCanaries(p, r.SpecDigest, uint32(g.ControlIndex()), secrets.Key, g.CanaryFrom(), residues); err != nil {
					t.Errorf("%s, client %d: %v", p.Name, i, err)
				}
				// The other way to seal, after data chunks were in the same room.
				all := make([]byte, g.Size())
				if s, err = seal.NewSealer(r, secrets, values, 2, 1, seal.From(clientName(i))); err != nil {
					t.Fatal(err)
				}
				if err := s.SealInto(t.Context(), 0, g.Frames(), all); err != nil || !bytes.Equal(all, bytes.Join(frames[i], nil)) {
					t.Fatalf("other frames: %v", err)
				}
				if again, _ := s.Canary(); !bytes.Equal(again, own) {
					t.Fatal("other canaries")
				}
			}
			secret, err := ckks.SumSecrets(p, r.SpecDigest, seeds)
			if err != nil {
				t.Fatal(err)
			}
			o, err := seal.NewOpener(r, seal.Release{Secret: secret, Terms: 3, WeightSum: 3, Squares: 3, Members: members}, 1)
			if err != nil {
				t.Fatal(err)
			}
			var sums [][]byte
			for i := range g.Frames() {
				a := fold.New(p)
				a.Reset(g.Header(i))
				for _, f := range frames {
					if err := a.Add(f[i], 1); err != nil {
						t.Fatal(err)
					}
				}
				sums = append(sums, a.Append(nil))
			}
			if bend != nil {
				bend(sums[g.ControlIndex()], o.Header(g.ControlIndex()))
			}
			if _, err := o.OpenControl(sums[g.ControlIndex()]); err != nil {
				return nil, frames, err
			}
			out := make([]float32, r.Values())
			if err := o.OpenRange(t.Context(), 0, sums[:g.ControlIndex()], out); err != nil {
				return nil, frames, err
			}
			return out, frames, o.Verify()
		}
		plain, before, err := open(0, nil)
		if err != nil {
			t.Fatal(err)
		}
		mean, after, err := open(params.DefaultCanaries, nil)
		if err != nil || !slices.Equal(mean, plain) {
			t.Fatalf("%s: another mean: %v", p.Name, err)
		}
		for i := range before {
			last := len(before[i]) - 1
			if !bytes.Equal(bytes.Join(before[i][:last], nil), bytes.Join(after[i][:last], nil)) || len(after[i][last]) <= len(before[i][last]) {
				t.Fatalf("%s: canaries change more than the control chunk", p.Name)
			}
		}
		// Whoever adds Δ to a canary of the sum is found: it is not zero any more.
		_, _, err = open(params.DefaultCanaries, func(control []byte, h frame.Header) {
			width, n, size := p.Width, int(h.Coefficients), frame.BlockSize(int(h.Coefficients), p.Width)
			logDelta := withCanaries(t, p.Name, 0).Scheme.LogDelta
			for j, q := range p.Primes {
				block, residues := control[frame.HeaderSize+j*size:][:size], make([]uint64, n)
				if !frame.Unpack(residues, block, width, q) {
					t.Fatal("a sum that is none")
				}
				residues[n-1] = (residues[n-1] + 1<<logDelta) % q
				frame.Pack(block, residues, width)
			}
		})
		if !errors.Is(err, errs.ErrDecrypt) {
			t.Errorf("%s: a canary that is not zero: %v", p.Name, err)
		}
	}
}

func TestNoRoomForCanaries(t *testing.T) {
	shared, _ := roundOf(t, choice("n4096-q102", params.SharedKey, 8, 3, 1, params.NearestEven), [2]int64{20, 3}, 1)
	shared.Canaries = 1
	for name, r := range map[string]seal.Round{
		"negative": withCanaries(t, "n2048-q52", -1), "too many": withCanaries(t, "n2048-q52", params.MaxCanaries+1), "shared-key": shared,
	} {
		if err := r.Geometry().Validate(); !errors.Is(err, errs.ErrParameters) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Clipped values by tensor give way to canaries.
	full := params.ControlsOf(0, 678, 0, 2048)
	if full.Tensors != 678 || params.ControlsOf(0, 678, 8, 2048).Tensors != 0 || params.ControlsOf(0, 676, 8, 2048).Tensors != 676 {
		t.Error("a control chunk is larger than the ring")
	}
}

func TestCanaryVectors(t *testing.T) {
	var cases []object
	for _, p := range params.Presets() {
		for _, n := range []int{1, params.DefaultCanaries} {
			r := withCanaries(t, p.Name, n)
			secrets := secretsOf(n)
			values := make([]float32, r.Values())
			s, err := seal.NewSealer(r, secrets, values, 3, 1, seal.From("client"))
			if err != nil {
				t.Fatal(err)
			}
			frames, g := contribution(t, s), r.Geometry()
			own, _ := s.Canary()
			var tree merkle.Tree
			var shown []string
			for _, b := range frames {
				tree.Append(merkle.Leaf(b))
				shown = append(shown, hex.EncodeToString(b))
			}
			var path []string
			for _, b := range canary.Path(&tree) {
				path = append(path, hex.EncodeToString(b))
			}
			root := canary.Root(tree, own)
			if _, err := canary.Open(g, root, own, canary.Path(&tree)); err != nil {
				t.Fatal(err)
			}
			cases = append(cases, object{
				"preset": preset(p), "spec_digest": hex.EncodeToString(r.SpecDigest[:]),
				"key_seed": hex.EncodeToString(secrets.Key[:]), "noise_seed": hex.EncodeToString(secrets.Noise[:]),
				"entries": g.Controls, "canaries": n, "frames": shown, "residues": hex.EncodeToString(own),
				"path": path, "root": hex.EncodeToString(root[:]),
			})
		}
	}
	vectors(t, "canaries.json", "contributions with canaries, and their proof: docs/spec.md §5.7", cases)
}
