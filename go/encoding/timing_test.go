package encoding

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/timing"
)

// TestTimingOfValues reports whether the time of scanning, rounding and packing
// depends on the values (make timing): values of one kind against ordinary
// ones. Printed, asserted nowhere.
func TestTimingOfValues(t *testing.T) {
	n, err := timing.Wanted()
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 5))
	stochastic := scheme(t, "n4096-q102", 16, 64, params.Stochastic)
	nearest := scheme(t, "n4096-q102", 16, 64, params.NearestEven)
	count := stochastic.ChunkValues()
	values, rho, words := make([]float32, count), make([]byte, 4*count), planes(stochastic)
	steps := make([]uint32, count)
	lanes := func(s *params.Scheme) *Lanes {
		l, err := NewLanes(s, []Tensor{{Count: int64(count), Range: 1}})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l, even := lanes(stochastic), lanes(nearest)
	q, qEven := l.quantiser(&l.tensors[0], 0.5), even.quantiser(&even.tensors[0], 0.5)
	// The second class are ordinary values, the first those of kind.
	drawn := [2][]float32{make([]float32, count), make([]float32, count)}
	against := func(kind func() float32) func(bool) {
		return func(random bool) {
			for i := range values {
				drawn[0][i], drawn[1][i] = kind(), float32(rng.NormFloat64()*0.2)
			}
			class := 0
			if random {
				class = 1
			}
			// Both are read: what one alone leaves in the caches would be measured.
			copy(values, drawn[1-class])
			copy(values, drawn[class])
			for i := range rho {
				rho[i] = byte(rng.Uint32())
			}
		}
	}
	constant := func(x float32) func() float32 { return func() float32 { return x } }
	zeros := against(constant(0))
	cases := []timing.Case{
		{Name: "scan, zeros", Prepare: zeros, Run: func() { l.Scan(values, 0, 0.5, make([]Seen, 1)) }},
		{Name: "scan, all clipped", Prepare: against(constant(-1e30)), Run: func() { l.Scan(values, 0, 0.5, make([]Seen, 1)) }},
		{Name: "stochastic rounding, zeros", Prepare: zeros, Run: func() { q.stochastic(steps, values, rho) }},
		{Name: "stochastic rounding, all clipped", Prepare: against(constant(math.MaxFloat32)), Run: func() { q.stochastic(steps, values, rho) }},
		{Name: "stochastic rounding, subnormal values", Prepare: against(func() float32 { return math.Float32frombits(rng.Uint32N(1 << 23)) }), Run: func() { q.stochastic(steps, values, rho) }},
		{Name: "stochastic rounding, portable, zeros", Prepare: zeros, Run: func() { q.stochasticPlain(steps, values, rho) }},
		{Name: "stochastic rounding, portable, clipped", Prepare: against(constant(math.MaxFloat32)), Run: func() { q.stochasticPlain(steps, values, rho) }},
		{Name: "stochastic rounding, portable, subnormal", Prepare: against(func() float32 { return math.Float32frombits(rng.Uint32N(1 << 23)) }), Run: func() { q.stochasticPlain(steps, values, rho) }},
		{Name: "nearest rounding, zeros", Prepare: zeros, Run: func() { qEven.nearest(steps, values) }},
		{Name: "nearest rounding, subnormal values", Prepare: against(func() float32 { return math.Float32frombits(rng.Uint32N(1 << 23)) }), Run: func() { qEven.nearest(steps, values) }},
		{Name: "lanes packed, zeros", Prepare: func(random bool) {
			for i := range steps {
				if steps[i] = rng.Uint32N(uint32(2 * stochastic.Half())); !random {
					steps[i] = 0
				}
			}
		}, Run: func() { fill(words, steps, 0, stochastic) }},
		{Name: "encoding of a chunk, zeros", Prepare: zeros, Run: func() { l.Encode(words, values, 0, 0.5, rho) }},
	}
	results, table := timing.Run(n, cases)
	if len(results) != len(cases) {
		t.Errorf("%d of %d cases were measured", len(results), len(cases))
	}
	t.Logf("n4096-q102, 16 bits, %d values, of one kind against ordinary ones\n%s", count, table)
}
