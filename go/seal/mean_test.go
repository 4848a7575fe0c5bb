package seal_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/cryptflow/cryptflow/go/params"
)

// shapes of an update; each client has the same in "largest" and "smallest".
var shapes = map[string]func(rng *rand.Rand, n int64, tensorRange func(int64) float32) []float32{
	"normal": func(rng *rand.Rand, n int64, _ func(int64) float32) []float32 { return gaussianUpdate(rng, n) },
	"smallest": func(_ *rand.Rand, n int64, r func(int64) float32) []float32 {
		x := make([]float32, n)
		for v := range x {
			x[v] = -r(int64(v))
		}
		return x
	},
	"largest": func(_ *rand.Rand, n int64, r func(int64) float32) []float32 {
		x := make([]float32, n)
		for v := range x {
			x[v] = r(int64(v))
		}
		return x
	},
	"beyond": func(rng *rand.Rand, n int64, r func(int64) float32) []float32 {
		x := make([]float32, n)
		for v := range x {
			x[v] = (rng.Float32()*2 - 1) * 1e4 * r(int64(v))
		}
		return x
	},
	"zero": func(_ *rand.Rand, n int64, _ func(int64) float32) []float32 { return make([]float32, n) },
	"padded": func(rng *rand.Rand, n int64, _ func(int64) float32) []float32 {
		x := gaussianUpdate(rng, n)
		clear(x[n/3:])
		return x
	},
}

var shapeNames = []string{"normal", "smallest", "largest", "beyond", "zero", "padded"}

func newCohort(t testing.TB, s *params.Scheme, counts [2]int64, clients int, shape string, rng *rand.Rand) *cohort {
	c := &cohort{}
	cap := uint32(1)
	if s.Mode == params.SumKey && rng.IntN(2) == 1 {
		cap = 1 + rng.Uint32N(1000)
	}
	c.round, c.secret = roundOf(t, s, counts, cap)
	for range clients {
		c.updates = append(c.updates, shapes[shape](rng, c.round.Values(), func(v int64) float32 {
			if v < counts[0] {
				return c.round.Tensors[0].Range
			}
			return c.round.Tensors[1].Range
		}))
		if s.Mode == params.SharedKey {
			cap = uint32(s.Weight)
		}
		c.weights = append(c.weights, 1+rng.Uint32N(cap))
	}
	return c
}

func (c *cohort) check(t testing.TB) {
	t.Helper()
	c.seal(t, 1)
	c.compare(t, c.open(t, c.fold(t), 1))
}

// TestMeanEqualsFloat64 goes through every preset, mode, rounding and shape
// with 8, 12, 16 and 24 bits, where a scheme exists, for cohorts of 2 and (one
// shape each) 64:
// the mean is that of float64 within one quantisation step with stochastic
// rounding, half of one with nearest-even, times n·w_cap/Σw in sum-key, and
// rounding of the output to float32. Noise beyond its bound would make it fail
// with probability 2^-80 for 2^40 coefficients.
func TestMeanEqualsFloat64(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 11))
	schemes := 0
	for _, p := range params.Presets() {
		for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
			for _, bits := range []int{8, 12, 16, 24} {
				for _, rounding := range []params.Rounding{params.Stochastic, params.NearestEven} {
					for _, clients := range []int{2, 64} {
						weight := 1
						if mode == params.SharedKey && rng.IntN(2) == 1 {
							weight = params.MaxWeight
						}
						s := choice(p.Name, mode, bits, clients, weight, rounding)
						if s == nil {
							s = choice(p.Name, mode, bits, clients, 1, rounding)
						}
						if s == nil {
							continue
						}
						schemes++
						t.Run(fmt.Sprintf("%s/%v/bits=%d/%v/n=%d", p.Name, mode, bits, rounding, clients), func(t *testing.T) {
							for i, shape := range shapeNames {
								if clients > 2 && i != schemes%len(shapeNames) {
									continue
								}
								counts := [2]int64{int64(1 + rng.IntN(60)), int64(1 + rng.IntN(200))}
								newCohort(t, s, counts, clients, shape, rng).check(t)
							}
						})
					}
				}
			}
		}
	}
	if schemes < 60 {
		t.Errorf("only %d schemes exist", schemes)
	}
}

// TestMeanOfAnyCohort draws cohort, weights, shape and length, whole and short
// frames included.
func TestMeanOfAnyCohort(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		presets := params.Presets()
		p := presets[rapid.IntRange(0, len(presets)-1).Draw(rt, "preset")]
		mode := params.Mode(rapid.IntRange(1, 2).Draw(rt, "mode"))
		bits := rapid.SampledFrom([]int{8, 12, 16, 24}).Draw(rt, "bits")
		clients := rapid.IntRange(2, 64).Draw(rt, "clients")
		rounding := params.Rounding(rapid.IntRange(1, 2).Draw(rt, "rounding"))
		weight := 1
		if mode == params.SharedKey {
			weight = rapid.IntRange(1, params.MaxWeight).Draw(rt, "weight")
		}
		s := choice(p.Name, mode, bits, clients, weight, rounding)
		if s == nil {
			return // the planner says so; schemes are counted in the table test
		}
		shape := rapid.SampledFrom(shapeNames).Draw(rt, "shape")
		counts := [2]int64{int64(rapid.IntRange(1, 300).Draw(rt, "first")), int64(rapid.IntRange(1, 300).Draw(rt, "second"))}
		if clients < 6 && rapid.Bool().Draw(rt, "long") {
			counts[1] += int64(s.ChunkValues()) - counts[0]
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		newCohort(t, s, counts, clients, shape, rng).check(t)
	})
}
