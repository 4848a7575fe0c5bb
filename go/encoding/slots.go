package encoding

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// Normalise writes to dst the values that begin at index first of the update,
// each times factor over its tensor's range and clipped to ±1: what slots
// carry.
func (l *Lanes) Normalise(dst []float64, values []float32, first int64, factor float64) {
	k := l.at(first)
	for i, x := range values {
		for l.tensors[k].to <= first+int64(i) {
			k++
		}
		dst[i] = math.Max(-1, math.Min(1, float64(x)*factor/l.tensors[k].limit))
	}
}

// Restore writes to out the means of slots that begin at index first: sums
// over divisor, rounded to the steps of the scheme's bits, times the range.
func (l *Lanes) Restore(out []float32, slots []float64, first int64, divisor float64) {
	m := float64(l.scheme.Half())
	k := l.at(first)
	for i := range out {
		for l.tensors[k].to <= first+int64(i) {
			k++
		}
		steps := math.RoundToEven(slots[i] / divisor * m)
		out[i] = finite(float32(steps * (l.tensors[k].limit / m)))
	}
}

// PutCoefficients writes the coefficients of an embedded polynomial, of
// magnitude at most 1, to words: u = c·H rounded, plus H, with H the scheme's
// SlotHalf. Stochastic rounding takes four bytes of rho a coefficient: u =
// floor(c·H + ρ/2^32) + H.
func PutCoefficients(words [][]uint64, coefficients []float64, s *params.Scheme, rho []byte) {
	half := float64(s.SlotHalf())
	for w := 1; w < len(words); w++ {
		clear(words[w][:len(coefficients)])
	}
	for i, c := range coefficients {
		y := float64(c * half)
		if s.Rounding == params.Stochastic {
			y = math.Floor(y + float64(binary.LittleEndian.Uint32(rho[4*i:]))*0x1p-32)
		} else {
			y = math.RoundToEven(y)
		}
		words[0][i] = uint64(int64(math.Max(-half, math.Min(half, y))) + s.SlotHalf())
	}
}

// TakeCoefficients is the inverse for sums of contributions of the given
// public weight. It returns ErrDecrypt for sums that they cannot have.
func TakeCoefficients(coefficients []float64, words [][]uint64, s *params.Scheme, weight uint32) error {
	half, bad := s.SlotHalf(), uint64(0)
	for i := range coefficients {
		for w := 1; w < len(words); w++ {
			bad |= -(words[w][i] | -words[w][i]) >> 63 << 63
		}
		u := words[0][i]
		bad |= 2*uint64(half)*uint64(weight) - u
		coefficients[i] = float64(int64(u)-half*int64(weight)) / float64(half)
	}
	if bad>>63 != 0 {
		return fmt.Errorf("a coefficient holds more than %d terms can sum to: %w", weight, errs.ErrDecrypt)
	}
	return nil
}
