package client

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/task"
)

// The numbers of examples that a public weight is said to represent are those
// that it is made of, all of them.
func TestPublicWeightsRepresentTheirExamples(t *testing.T) {
	for _, limit := range []uint32{256, 257, 300, 509, 510, 511, 1000, 65_535, 300_000} {
		const public = params.MaxWeight
		least, largest := map[uint32]uint64{}, map[uint32]uint64{}
		for w := uint32(1); w <= limit; w++ {
			p := publicWeight(w, limit, public)
			if p < 1 || p > public {
				t.Fatalf("cap %d: %d examples weigh %d", limit, w, p)
			}
			if least[p] == 0 {
				least[p] = uint64(w)
			}
			largest[p] = uint64(w)
		}
		for p := range least {
			if lo, hi := examplesOf(p, limit, public); lo != least[p] || hi != largest[p] {
				t.Fatalf("cap %d, weight %d: %d to %d, not %d to %d", limit, p, lo, hi, least[p], largest[p])
			}
		}
	}
}

// cohortOf is a task of shared-key and the manifest of clients with such
// numbers of examples.
func cohortOf(limit uint32, examples []uint32) (*task.Task, *task.Manifest) {
	t := &task.Task{Mode: params.SharedKey, WeightCap: limit}
	x, m := &Client{task: t}, &task.Manifest{}
	for _, w := range examples {
		m.Entries = append(m.Entries, task.Entry{Weight: x.weight(w)})
	}
	return t, m
}

// worst is the largest difference between the two means for values within ±1:
// each is at the end that its share draws it to.
func worst(m *task.Manifest, examples []uint32) float64 {
	rounded, exact := 0.0, 0.0
	for i, w := range examples {
		rounded, exact = rounded+float64(m.Entries[i].Weight), exact+float64(w)
	}
	total := 0.0
	for i, w := range examples {
		total += math.Abs(float64(m.Entries[i].Weight)/rounded - float64(w)/exact)
	}
	return total
}

// The bound holds for the worst values of many cohorts: uniform numbers of
// examples, ones of all magnitudes, small ones that weigh 1, and numbers at the
// edges of rounding.
func TestTheBoundCoversRoundingOfWeights(t *testing.T) {
	type source = func(rng *rand.Rand, limit uint32) uint32
	draws := map[string]source{
		"uniform": func(rng *rand.Rand, limit uint32) uint32 { return 1 + rng.Uint32N(limit) },
		"magnitudes": func(rng *rand.Rand, limit uint32) uint32 {
			return uint32(math.Exp(rng.Float64() * math.Log(float64(limit))))
		},
		"small": func(rng *rand.Rand, limit uint32) uint32 { return 1 + rng.Uint32N(1+limit/100) },
		"edges": func(rng *rand.Rand, limit uint32) uint32 {
			lo, hi := examplesOf(1+rng.Uint32N(params.MaxWeight), limit, params.MaxWeight)
			if rng.IntN(2) == 0 {
				return uint32(lo)
			}
			return uint32(hi)
		},
	}
	for name, draw := range draws {
		rng := rand.New(rand.NewPCG(22, uint64(len(name))))
		tightest := math.Inf(1)
		for range 20_000 {
			limit := 256 + uint32(math.Exp(rng.Float64()*math.Log(task.MaxCap-256)))
			examples := make([]uint32, 2+rng.IntN(9))
			for i := range examples {
				examples[i] = draw(rng, limit)
			}
			x, m := cohortOf(limit, examples)
			bound, found := roundedWeights(x, m), worst(m, examples)
			if found > bound+1e-14 { // what float64 makes of differences of shares
				t.Fatalf("%s: cap %d, examples %v: off by %g, the bound is %g", name, limit, examples, found, bound)
			}
			if found > 0 {
				tightest = min(tightest, bound/found)
			}
		}
		t.Logf("%s: the bound is at least %.2f times the worst difference", name, tightest)
	}
}

func TestWeightsThatTravelAsTheyAreCostNothing(t *testing.T) {
	for _, x := range []*task.Task{
		{Mode: params.SumKey, WeightCap: 1000},
		{Mode: params.SharedKey, WeightCap: 255},
		{Mode: params.SharedKey, WeightCap: 7},
	} {
		if got := roundedWeights(x, &task.Manifest{Entries: []task.Entry{{Weight: 3}, {Weight: 1}}}); got != 0 {
			t.Errorf("%v with a cap of %d: %g", x.Mode, x.WeightCap, got)
		}
	}
}
