package seal

import (
	"context"
	"fmt"

	"github.com/cryptflow/cryptflow/go/encoding"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/spread"
)

// splitPiece is how many values of a precise tensor one core splits at a time.
const splitPiece = 1 << 16

// split makes the further digits of precise tensors, once: the values
// themselves are read where they are.
func (s *Sealer) split(threads int) error {
	s.digits = make([]uint32, s.lanes.Sealed()-s.lanes.Values())
	return s.lanes.Precise(func(from, to int64) error {
		pieces := int((to - from + splitPiece - 1) / splitPiece)
		return spread.Over(context.Background(), threads, pieces, func(_, k int) error {
			at := from + int64(k)*splitPiece
			s.lanes.Split(s.digits, s.values[at:min(at+splitPiece, to)], at, s.factor)
			return nil
		})
	})
}

// digits are the sums of the digits of precise tensors, on their way to be put
// together.
type digits struct {
	leading []float64 // of the first digit, precise tensor after precise tensor
	further []float64 // in the order in which they travel
	opened  []bool    // by data chunk
}

// newDigits returns nil where no tensor is precise.
func newDigits(l *encoding.Lanes, chunks int) *digits {
	further := l.Sealed() - l.Values()
	if further == 0 {
		return nil
	}
	d := &digits{further: make([]float64, further), opened: make([]bool, chunks)}
	count := int64(0)
	_ = l.Precise(func(from, to int64) error { // do never fails
		count += to - from
		return nil
	})
	d.leading = make([]float64, count)
	return d
}

// take notes the digits of an opened chunk, of the sealed integers [from, to).
// Chunks may be taken at the same time.
func (d *digits) take(l *encoding.Lanes, words [][]uint64, from, to int64, weight uint32) {
	place := d.leading
	_ = l.Precise(func(first, last int64) error { // do never fails
		if a, b := max(from, first), min(to, last); a < b {
			l.Sums(place[a-first:b-first], words, int(a-from), weight)
		}
		place = place[last-first:]
		return nil
	})
	if a := max(from, l.Values()); a < to {
		l.Sums(d.further[a-l.Values():to-l.Values()], words, int(a-from), weight)
	}
}

// Finish writes the means of precise tensors to their places in out, which has
// the whole mean. It comes after every data frame was opened into out. In a
// round without precise tensors there is nothing to do.
func (o *Opener) Finish(out []float32) error {
	if o.digits == nil {
		return nil
	}
	if int64(len(out)) != o.lanes.Values() {
		return fmt.Errorf("room for %d values of %d: %w", len(out), o.lanes.Values(), errs.ErrArgument)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for index, opened := range o.digits.opened {
		if !opened {
			return fmt.Errorf("frame %d was not opened: %w", index, errs.ErrState)
		}
	}
	leading, divisor := o.digits.leading, o.round.divisor(o.weights)
	return o.lanes.Precise(func(from, to int64) error {
		o.lanes.Join(out[from:to], leading[:to-from], o.digits.further, from, divisor)
		leading = leading[to-from:]
		return nil
	})
}

// Span is the part [from, to) of the mean that data frame index opens to. It
// is empty for one that holds further digits only.
func (o *Opener) Span(index int) (from, to int64) {
	from, to = o.geometry.Span(index)
	end := o.lanes.Values()
	return min(from, end), min(to, end)
}
