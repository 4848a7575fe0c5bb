package seal_test

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
)

// magnitudes spans 1e-6 to 1e6, both signs.
func magnitudes(rng *rand.Rand, n int64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.Pow(10, 12*rng.Float64()-6))
		if rng.IntN(2) == 0 {
			x[i] = -x[i]
		}
	}
	return x
}

// TestPreciseTensorsKeepSmallValues: values of one precise tensor span twelve
// decades; each mean is within the bound that the round states of it, which is
// far below the smallest, whatever the mode, the rounding, the weights and the
// threads, and frames sent again are the same bytes.
func TestPreciseTensorsKeepSmallValues(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := rapid.SampledFrom(params.Presets()).Draw(rt, "preset")
		mode := params.Mode(rapid.IntRange(1, 2).Draw(rt, "mode"))
		clients := rapid.IntRange(1, 5).Draw(rt, "clients")
		weight, limit := 1, uint32(1000)
		if mode == params.SharedKey {
			weight, limit = 9, 9
		}
		bits := rapid.SampledFrom([]int{8, 12, 16}).Draw(rt, "bits")
		s := choice(p.Name, mode, bits, clients, weight, params.Rounding(rapid.IntRange(1, 2).Draw(rt, "rounding")))
		if s == nil {
			return // no room beside shared-key's noise
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 5))
		c := &cohort{}
		// A chunk of values alone, one of both, some of digits.
		plain := rapid.Int64Range(1, int64(s.ChunkValues())).Draw(rt, "plain")
		c.round, c.secret = roundOf(t, s, [2]int64{plain, rapid.Int64Range(1, 900).Draw(rt, "count")}, limit)
		c.round.Tensors[1].Precise, c.round.Tensors[1].Range = true, 1<<20
		c.round.Tensors = append(c.round.Tensors, seal.Tensor{Name: "more", Count: 5, Range: 1 << 20, Precise: true})
		for range clients {
			x := gaussianUpdate(rng, c.round.Tensors[0].Count)
			c.updates = append(c.updates, append(x, magnitudes(rng, c.round.Values()-c.round.Tensors[0].Count)...))
			c.weights = append(c.weights, limit/2+1+rng.Uint32N(limit/2))
		}
		c.seal(t, rapid.IntRange(1, 3).Draw(rt, "threads"))
		mean := c.open(t, c.fold(t), rapid.IntRange(1, 3).Draw(rt, "openers"))
		c.compare(t, mean)
		exact, _ := c.reference()
		weights := uint64(0)
		for _, w := range c.weights {
			weights += uint64(w)
		}
		bound := c.round.BoundOf(c.round.Tensors[1], c.release(t), weights)
		if bound > 1e-6 {
			t.Fatalf("a bound of %g", bound)
		}
		for v := int(c.round.Tensors[0].Count); v < len(mean); v++ {
			if d := math.Abs(float64(mean[v]) - exact[v]); d > bound*(1+1e-9)+math.Abs(exact[v])*0x1p-24+0x1p-150 {
				t.Fatalf("value %d: the mean differs from float64 by %g, the stated bound is %g", v, d, bound)
			}
		}

		one, err := seal.NewSealer(
			c.round, secretsOf(0), c.updates[0], c.numExamples(0), 2, seal.From(clientName(0)), seal.WithMetrics(c.metrics(0)),
		)
		if err != nil {
			t.Fatal(err)
		}
		from := rapid.IntRange(0, one.Frames()-1).Draw(rt, "from")
		for range 2 {
			if err := one.Seal(t.Context(), from, one.Frames(), func(k int, f []byte) error {
				if !bytes.Equal(f, c.frames[0][k]) {
					t.Fatalf("frame %d differs when sent again", k)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		room := make([]byte, one.Geometry().Size())
		err = one.SealInto(t.Context(), 0, one.Frames(), room)
		if err != nil || !bytes.Equal(room, bytes.Join(c.frames[0], nil)) {
			t.Fatalf("sealed into one piece of memory the frames differ: %v", err)
		}
	})
}

// TestDigitsComeTogetherAtTheEnd: a mean is only there when every frame was
// opened, and an update that changed is refused as any other.
func TestDigitsComeTogetherAtTheEnd(t *testing.T) {
	s := choice("n2048-q52", params.SumKey, 16, 3, 1, params.Stochastic)
	c := newCohort(t, s, [2]int64{10, int64(s.ChunkValues())}, 2, "normal", rand.New(rand.NewPCG(1, 6)))
	c.round.Tensors[1].Precise = true
	if got, want := c.round.Geometry().Values, 10+int64(s.ChunkValues())*3; got != want {
		t.Fatalf("%d integers travel, want %d", got, want)
	}
	c.frames = nil
	c.seal(t, 1)
	result := c.fold(t)
	o, err := seal.NewOpener(c.round, c.release(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.OpenControl(result[len(result)-1]); err != nil {
		t.Fatal(err)
	}
	out := make([]float32, c.round.Values())
	for k := range result[:len(result)-1] {
		if err := o.Finish(out); !errors.Is(err, errs.ErrState) {
			t.Fatalf("finished before frame %d: %v", k, err)
		}
		from, to := o.Span(k)
		if err := o.Open(t.Context(), k, result[k], out[from:to]); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Finish(out[1:]); !errors.Is(err, errs.ErrArgument) {
		t.Fatal(err)
	}
	if err := o.Finish(out); err != nil {
		t.Fatal(err)
	}
	c.compare(t, out)

	x := bytes.Clone(nil)
	one, err := seal.NewSealer(c.round, secretsOf(0), c.updates[0], c.numExamples(0), 1, seal.From(clientName(0)))
	if err != nil {
		t.Fatal(err)
	}
	keep := func(_ int, f []byte) error { x = append(x, f...); return nil }
	if err := one.Seal(t.Context(), 0, one.Frames(), keep); err != nil {
		t.Fatal(err)
	}
	c.updates[0][10] += 0.25
	if err := one.Seal(t.Context(), 0, one.Frames(), keep); !errors.Is(err, errs.ErrContribution) {
		t.Fatalf("a precise value that changed: %v", err)
	}
}
