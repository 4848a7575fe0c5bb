package seal_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/privacy"
	"github.com/cryptflow/cryptflow/go/seal"
)

// TestNoiseOfEncryptedSums: what opens from the sum of three clients' frames
// is the sum of their updates and of three discrete Gaussians: χ² against the
// exact convolution, and its variance, which is at least what was promised.
// Updates are zero or whole steps, so that all that is random is noise. A
// correct implementation fails one of these with probability 10^-8.
func TestNoiseOfEncryptedSums(t *testing.T) {
	for _, c := range []struct {
		bits       uint32
		multiplier float64
		colluding  uint32
	}{{8, 0.3, 1}, {10, 1, 1}, {12, 0.8, 0}} {
		t.Run(fmt.Sprintf("bits=%d/multiplier=%g/colluding=%d", c.bits, c.multiplier, c.colluding), func(t *testing.T) {
			const clients, values = 3, 200000
			p, err := privacy.Derive(privacy.Promise{Clip: 0.5, Multiplier: c.multiplier, Delta: 1e-5, Colluding: c.colluding}, c.bits, 900, clients)
			if err != nil {
				t.Fatal(err)
			}
			s, err := params.NewScheme(params.Choice{Preset: "n4096-q102", Mode: params.SumKey, Bits: int(c.bits), Clients: clients, Weight: 1, Rounding: params.NearestEven})
			if err != nil {
				t.Fatal(err)
			}
			r := seal.Round{Scheme: s, SpecDigest: [32]byte{byte(c.bits)}, WeightCap: 1, Tensors: []seal.Tensor{{Name: "w", Count: values, Range: p.Range(c.bits)}}}
			g := r.Geometry()
			sums := make([]*fold.Accumulator, g.Frames())
			for k := range sums {
				sums[k] = fold.New(s.Preset)
				sums[k].Reset(g.Header(k))
			}
			var seeds []ckks.Seed
			for range clients {
				noised, err := p.Apply(make([]float32, values), c.bits, 2)
				if err != nil {
					t.Fatal(err)
				}
				secrets, err := seal.NewSecrets()
				if err != nil {
					t.Fatal(err)
				}
				seeds = append(seeds, secrets.Key)
				sealer, err := seal.NewSealer(r, secrets, noised, 1, 2)
				if err != nil {
					t.Fatal(err)
				}
				if n := sealer.Clipped()[0]; n != 0 {
					t.Fatalf("%d values were clipped while they were encoded", n)
				}
				if err := sealer.Seal(t.Context(), 0, sealer.Frames(), func(i int, b []byte) error { return sums[i].Add(b, 1) }); err != nil {
					t.Fatal(err)
				}
			}
			rel := seal.Release{Terms: clients, WeightSum: clients, Squares: clients}
			if rel.Secret, err = ckks.SumSecrets(s.Preset, r.SpecDigest, seeds); err != nil {
				t.Fatal(err)
			}
			o, err := seal.NewOpener(r, rel, 2)
			if err != nil {
				t.Fatal(err)
			}
			frames := make([][]byte, len(sums))
			for k, a := range sums {
				frames[k] = a.Append(nil)
			}
			if _, err := o.OpenControl(frames[len(frames)-1]); err != nil {
				t.Fatal(err)
			}
			mean := make([]float32, values)
			if err := o.OpenRange(t.Context(), 0, frames[:len(frames)-1], mean); err != nil {
				t.Fatal(err)
			}

			exact := convolved(float64(p.Variance), clients)
			middle := len(exact) / 2
			counts, squares := make([]float64, len(exact)), 0.0
			for i, x := range mean {
				steps := float64(x) * clients * float64(s.Half()) / float64(p.Range(c.bits))
				k := math.Round(steps)
				if math.Abs(steps-k) > 0.01 {
					t.Fatalf("value %d: a sum of %g steps", i, steps)
				}
				counts[middle+int(k)]++
				squares += k * k
			}
			chi, df, seen, expected := 0.0, -1.0, 0.0, 0.0
			left := float64(values)
			for k, q := range exact {
				seen, expected = seen+counts[k], expected+values*q
				if expected >= 50 && left-expected >= 50 || k == len(exact)-1 {
					chi += (seen - expected) * (seen - expected) / expected
					df, left = df+1, left-expected
					seen, expected = 0, 0
				}
			}
			if z := (math.Cbrt(chi/df) - 1 + 2/(9*df)) / math.Sqrt(2/(9*df)); z > 6 {
				t.Errorf("χ² = %.0f with %.0f degrees of freedom: %.1f standard deviations", chi, df, z)
			}
			variance := 0.0
			for k, q := range exact {
				variance += q * float64(k-middle) * float64(k-middle)
			}
			measured := squares / values
			if z := (measured/variance - 1) / math.Sqrt(2.0/values); math.Abs(z) > 6 {
				t.Errorf("a variance of %g, the exact one is %g: %.1f standard deviations", measured, variance, z)
			}
			promised := c.multiplier * c.multiplier * float64(p.Bound) * clients / float64(clients-c.colluding)
			if measured < promised*(1-6*math.Sqrt(2.0/values)) {
				t.Errorf("a variance of %g, promised are %g", measured, promised)
			}
		})
	}
}

// convolved is the distribution of a sum of n discrete Gaussians.
func convolved(variance float64, n int) []float64 {
	limit := int(10 * math.Sqrt(variance))
	one := make([]float64, 2*limit+1)
	total := 0.0
	for i := range one {
		x := float64(i - limit)
		one[i] = math.Exp(-x * x / (2 * variance))
		total += one[i]
	}
	for i := range one {
		one[i] /= total
	}
	sum := []float64{1}
	for range n {
		next := make([]float64, len(sum)+len(one)-1)
		for i, a := range sum {
			for j, b := range one {
				next[i+j] += a * b
			}
		}
		sum = next
	}
	return sum
}
