package seal_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/params"
)

// hostile values of a tensor with the given range.
func hostile(rng *rand.Rand, r float32) float32 {
	all := []float32{
		0, float32(math.Copysign(0, -1)), math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, 1e-40, -1e-40, 0x1p-126,
		math.MaxFloat32, -math.MaxFloat32, 1e38, -1e38, r, -r, math.Nextafter32(r, 0), math.Nextafter32(r, math.MaxFloat32), r / 2, (2*rng.Float32() - 1) * r,
	}
	return all[rng.IntN(len(all))]
}

// TestMeanOfHostileValues: any preset, mode, bits from 4 to 30, rounding,
// cohort, weights, and two tensors, precise or not, whose ranges differ by up to
// 10^76: the mean
// is that of float64 within the stated bound.
func TestMeanOfHostileValues(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := rapid.SampledFrom(params.Presets()).Draw(rt, "preset")
		mode := params.Mode(rapid.IntRange(1, 2).Draw(rt, "mode"))
		bits := rapid.IntRange(params.MinBits, params.MaxBits).Draw(rt, "bits")
		clients := rapid.IntRange(1, 20).Draw(rt, "clients")
		weight := 1
		if mode == params.SharedKey {
			weight = rapid.SampledFrom([]int{1, 2, 100, params.MaxWeight}).Draw(rt, "weight")
		}
		s := choice(p.Name, mode, bits, clients, weight, params.Rounding(rapid.IntRange(1, 2).Draw(rt, "rounding")))
		if s == nil {
			return // the planner says so; TestEveryBitsHasAScheme counts
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 2))
		counts := [2]int64{rapid.Int64Range(1, 100).Draw(rt, "first"), rapid.Int64Range(1, 100).Draw(rt, "second")}
		cap := rapid.SampledFrom([]uint32{1, 2, 1000, 1 << 24}).Draw(rt, "cap")
		c := &cohort{}
		c.round, c.secret = roundOf(t, s, counts, cap)
		huge := rapid.SampledFrom([]float32{1, 1e4, 1e38, math.MaxFloat32}).Draw(rt, "huge")
		tiny := rapid.SampledFrom([]float32{1, 1e-4, 1e-38, 1e-44}).Draw(rt, "tiny")
		c.round.Tensors[0].Range, c.round.Tensors[1].Range = huge, tiny
		for k := range c.round.Tensors {
			c.round.Tensors[k].Precise = rapid.Bool().Draw(rt, "precise")
		}
		for range clients {
			x := make([]float32, c.round.Values())
			for v := range x {
				r := tiny
				if int64(v) < counts[0] {
					r = huge
				}
				x[v] = hostile(rng, r)
			}
			c.updates = append(c.updates, x)
			w := cap
			if mode == params.SharedKey {
				w = uint32(weight)
			}
			c.weights = append(c.weights, 1+rng.Uint32N(w))
		}
		c.check(t)
	})
}

// TestEveryBitsHasAScheme: each number of bits is carried by a preset in each
// mode, so that the properties above are about something.
func TestEveryBitsHasAScheme(t *testing.T) {
	for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
		for bits := params.MinBits; bits <= params.MaxBits; bits++ {
			found := false
			for _, p := range params.Presets() {
				found = found || choice(p.Name, mode, bits, 20, 1, params.Stochastic) != nil
			}
			if !found {
				t.Errorf("%v: no preset carries %d bits", mode, bits)
			}
		}
	}
}

// TestMeanOfTheLargestCohorts folds up to 4096 contributions, each under its
// own key, all at the largest, all at the smallest value and mixed: lanes
// and noise are then at what the scheme has room for.
func TestMeanOfTheLargestCohorts(t *testing.T) {
	for _, c := range []struct {
		preset  string
		mode    params.Mode
		bits    int
		clients int
		shape   string
	}{
		{"n2048-q52", params.SumKey, 16, params.MaxClients, "largest"},
		{"n4096-q102", params.SumKey, 24, params.MaxClients, "smallest"},
		{"n8192-q204", params.SumKey, 30, 513, "beyond"},
		{"n4096-q102", params.SharedKey, 16, params.MaxClients, "largest"},
		{"n2048-q52", params.SharedKey, 8, 1000, "smallest"},
	} {
		t.Run(fmt.Sprintf("%s/%v/bits=%d/n=%d/%s", c.preset, c.mode, c.bits, c.clients, c.shape), func(t *testing.T) {
			s := choice(c.preset, c.mode, c.bits, c.clients, 1, params.Stochastic)
			if s == nil {
				t.Fatal("there is no such scheme")
			}
			newCohort(t, s, [2]int64{3, 4}, c.clients, c.shape, rand.New(rand.NewPCG(1, uint64(c.clients)))).check(t)
		})
	}
}

// TestReplicasGiveTheSameBytes: whatever the order in which contributions
// arrive, whoever folds them, and whether an accumulator is new or was used
// before, the sum is the same byte string; so is a contribution, whatever the
// number of threads.
func TestReplicasGiveTheSameBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := rapid.SampledFrom(params.Presets()).Draw(rt, "preset")
		mode := params.Mode(rapid.IntRange(1, 2).Draw(rt, "mode"))
		clients := rapid.IntRange(2, 6).Draw(rt, "clients")
		weight := 1
		if mode == params.SharedKey {
			weight = rapid.IntRange(1, 9).Draw(rt, "weight")
		}
		s := choice(p.Name, mode, 8, clients, weight, params.Stochastic)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 3))
		c := newCohort(t, s, [2]int64{rapid.Int64Range(1, 50).Draw(rt, "first"), rapid.Int64Range(1, int64(s.ChunkValues())).Draw(rt, "second")}, clients, "normal", rng)
		c.seal(t, 1)
		want := c.fold(t)
		again := *c
		again.frames = nil
		again.seal(t, 3)
		for i := range c.frames {
			for k := range c.frames[i] {
				if !bytes.Equal(c.frames[i][k], again.frames[i][k]) {
					t.Fatalf("frame %d of client %d depends on the threads", k, i)
				}
			}
		}
		g := c.round.Geometry()
		used := fold.New(p)
		for k := range want {
			for replica := range 3 {
				acc := used
				if replica == 0 {
					acc = fold.New(p)
				}
				acc.Reset(g.Header(k))
				for _, i := range rng.Perm(clients) {
					if err := acc.Add(c.frames[i][k], c.publicWeight(i)); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(acc.Append(nil), want[k]) {
					t.Fatalf("frame %d of replica %d differs", k, replica)
				}
			}
		}
	})
}

// TestOpeningIsLinear: the opened mean of a cohort, times its weights, is the
// sum of what its members alone open to, within rounding to float32; equal
// updates open to the mean of one.
func TestOpeningIsLinear(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := rapid.SampledFrom(params.Presets()).Draw(rt, "preset")
		clients := rapid.IntRange(2, 5).Draw(rt, "clients")
		s := choice(p.Name, params.SumKey, 8, clients, 1, params.NearestEven)
		round, _ := roundOf(t, s, [2]int64{40, 30}, 1)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 4))
		all := &cohort{round: round}
		for range clients {
			all.updates, all.weights = append(all.updates, gaussianUpdate(rng, round.Values())), append(all.weights, 1)
		}
		all.seal(t, 1)
		mean := all.open(t, all.fold(t), 1)
		sum := make([]float64, round.Values())
		for _, x := range all.updates {
			one := &cohort{round: round, updates: [][]float32{x}, weights: []uint32{1}}
			one.seal(t, 1)
			for v, y := range one.open(t, one.fold(t), 1) {
				sum[v] += float64(y)
			}
		}
		for v, y := range mean {
			if d := math.Abs(float64(y)*float64(clients) - sum[v]); d > 1e-5 {
				t.Fatalf("value %d: %d times the mean is %v, the sum %v", v, clients, float64(y)*float64(clients), sum[v])
			}
		}
	})
}
