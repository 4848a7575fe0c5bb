package encoding

import (
	"fmt"
	"math"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// A value of a precise tensor is, in steps of its range, the sum of integers
// n_d/(2M)^d, each n_d within ±M. The first digit travels in the value's place.
// The others follow after the values of all tensors: tensor by tensor, and
// within it digit by digit. Sums of digits are exact, so that the mean is that
// of the values up to half a step of the last digit.

// digits appends the further digits of precise tensors to the layout.
func (l *Lanes) digits() error {
	l.given, l.sealed = len(l.tensors), l.values
	for k := range l.tensors[:l.given] {
		if !l.tensors[k].precise {
			continue
		}
		if l.scheme.Encoding != params.Lanes {
			return fmt.Errorf("tensor %d is precise, which needs lanes: %w", k, errs.ErrParameters)
		}
		l.tensors[k].digits = l.sealed
		count := l.tensors[k].to - l.tensors[k].from
		for range l.scheme.Digits() - 1 {
			if count > params.MaxValues-l.sealed {
				return fmt.Errorf("tensor %d has %d digits of %d values: %w", k, l.scheme.Digits(), count, errs.ErrLayout)
			}
			l.tensors = append(l.tensors, tensor{from: l.sealed, to: l.sealed + count, limit: 1})
			l.sealed += count
		}
	}
	return nil
}

// Precise calls do for each precise tensor with the values [from, to) that it
// has, until an error.
func (l *Lanes) Precise(do func(from, to int64) error) error {
	for _, t := range l.tensors[:l.given] {
		if t.precise && t.from < t.to {
			if err := do(t.from, t.to); err != nil {
				return err
			}
		}
	}
	return nil
}

// Split writes the further digits of values of one precise tensor, which begin
// at index first of the update, to their places in digits: those of the whole
// layout, [Lanes.Sealed] less [Lanes.Values] of them. What Encode makes of the
// values and these together stand for value·factor.
func (l *Lanes) Split(digits []uint32, values []float32, first int64, factor float64) {
	t := &l.tensors[l.at(first)]
	q := l.quantiser(t, factor)
	base, count := l.scheme.DigitBase(), t.to-t.from
	digits = digits[t.digits-l.values+first-t.from:]
	further := int64(l.scheme.Digits() - 1)
	for i, x := range values {
		b := math.Float32bits(x)
		sign := int64(int32(b) >> 31)
		// What nearest computes, and what it leaves: the difference is exact.
		y := float64(float64(math.Float32frombits(min(b&^(1<<31), q.beyond))) * q.scale)
		y = min(y, float64(q.half))
		left := y - math.RoundToEven(y)
		for d := range further {
			z := float64(left * base)
			n := math.RoundToEven(z)
			left = z - n
			digits[d*count+int64(i)] = uint32((int64(n) ^ sign) - sign + q.half)
		}
	}
}

// Sums writes to out the sums of integers that the lanes of a chunk hold, from
// its value at on. They are exact. Decode refuses what no clients can have
// sent; it comes before.
func (l *Lanes) Sums(out []float64, words [][]uint64, at int, weight uint32) {
	s := l.scheme
	width := uint(s.LaneWidth())
	mask, offset := uint64(1)<<width-1, int64(weight)*s.Half()
	for i := range out {
		bit := uint((at+i)%s.Lanes) * width
		c, w := (at+i)/s.Lanes, bit/64
		v := words[w][c] >> (bit % 64)
		if bit%64+width > 64 {
			v |= words[w+1][c] << (64 - bit%64)
		}
		out[i] = float64(int64(v&mask) - offset)
	}
}

// Join writes to out the means of a precise tensor whose values begin at index
// from of the update: leading are the sums of their first digits, digits those
// of all further ones of the layout.
func (l *Lanes) Join(out []float32, leading, digits []float64, from int64, divisor float64) {
	t := &l.tensors[l.at(from)]
	base, count := l.scheme.DigitBase(), t.to-t.from
	digits = digits[t.digits-l.values:]
	scale := t.limit / float64(l.scheme.Half()) / divisor
	for i := range out {
		sum := 0.0
		for d := int64(l.scheme.Digits()) - 2; d >= 0; d-- {
			sum = (digits[d*count+int64(i)] + sum) / base
		}
		out[i] = finite(float32(float64(leading[i]+sum) * scale))
	}
}
