package encoding

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/params"
)

// TestDigitsStandForTheValue: in exact arithmetic the digits add up to the
// value times factor, up to half a step of the last; none leaves its lane.
func TestDigitsStandForTheValue(t *testing.T) {
	for bits := params.MinBits; bits <= params.MaxBits; bits++ {
		for _, rounding := range []params.Rounding{params.Stochastic, params.NearestEven} {
			t.Run(fmt.Sprint(bits, rounding), func(t *testing.T) {
				s := scheme(t, "n8192-q204", bits, 8, rounding)
				if last := math.Pow(s.DigitBase(), float64(s.Digits()-1)) * float64(s.Half()); last < 1<<params.PreciseBits {
					t.Fatalf("%d digits of %d bits have %g steps", s.Digits(), bits, last)
				}
				limit := 0.7
				l, err := NewLanes(s, []Tensor{
					{Count: 7, Range: 1}, {Count: 500, Range: float32(limit), Precise: true}, {Count: 3, Range: 1, Precise: true},
				})
				if err != nil {
					t.Fatal(err)
				}
				limit = float64(float32(limit))
				if l.Values() != 510 || l.Sealed() != 510+503*int64(s.Digits()-1) {
					t.Fatalf("%d of %d", l.Values(), l.Sealed())
				}
				rng := rand.New(rand.NewPCG(uint64(bits), 1))
				factor := 0.37
				x := make([]float32, 510)
				for i := range x {
					x[i] = float32((2*rng.Float64() - 1) * math.Pow(10, -12*rng.Float64()))
				}
				x[7], x[8], x[9], x[10], x[11] = 0, float32(math.Copysign(0, -1)), 1e-45, float32(limit/factor), -math.MaxFloat32
				digits := make([]uint32, l.Sealed()-l.Values())
				l.Split(digits, x[7:100], 7, factor)
				l.Split(digits, x[100:507], 100, factor)
				l.Split(digits, x[507:], 507, factor)
				words := planes(s)
				rho := make([]byte, 4*len(x))
				for i := range rho {
					rho[i] = byte(rng.Uint32())
				}
				l.EncodeWith(words, x, digits, 0, factor, rho)
				sums := make([]float64, l.Sealed())
				l.Sums(sums, words, 0, 1)
				base := new(big.Float).SetPrec(300).SetFloat64(s.DigitBase())
				for i := 7; i < 507; i++ {
					step := new(big.Float).SetPrec(300).Quo(big.NewFloat(limit), big.NewFloat(float64(s.Half())))
					total := new(big.Float).SetPrec(300).Mul(big.NewFloat(sums[i]), step)
					for d := range s.Digits() - 1 {
						n := sums[510+500*d+i-7]
						if math.Abs(n) > float64(s.Half()) {
							t.Fatalf("digit %d of value %d is %g", d+1, i, n)
						}
						step.Quo(step, base)
						total.Add(total, new(big.Float).SetPrec(300).Mul(big.NewFloat(n), step))
					}
					want := max(-limit, min(limit, float64(x[i])*factor))
					got, _ := total.Float64()
					half, _ := step.Float64()
					if d := math.Abs(got - want); d > half/2*(1+1e-6)+math.Abs(want)*0x1p-50 {
						t.Fatalf("value %d: %g became %g, %g apart", i, want, got, d)
					}
				}
			})
		}
	}
}
