package encoding

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/kernel"
	"github.com/cryptflow/cryptflow/go/params"
)

// Decode writes to out the mean of a chunk whose values begin at index first:
// (sum − M·weight)·(range/M/divisor), where weight is the sum of the public
// weights and divisor what the sum is divided by. It returns ErrDecrypt when
// a lane exceeds 2M·weight or an unused bit is set; out is meaningless then. A
// mean beyond the largest float32 is that.
func (l *Lanes) Decode(out []float32, words [][]uint64, first int64, weight uint32, divisor float64) error {
	if err := l.decode(out, words, first, weight, divisor); err != nil {
		return err
	}
	l.saturate(out, first, weight, divisor)
	return nil
}

func (l *Lanes) decode(out []float32, words [][]uint64, first int64, weight uint32, divisor float64) error {
	s := l.scheme
	n := (len(out) + s.Lanes - 1) / s.Lanes
	bad := unused(words, n, len(out), s)
	if len(words) == 2 {
		return l.decodeTwo(out, words, first, weight, divisor, bad)
	}
	for k := l.at(first); k < len(l.tensors); k++ {
		t := &l.tensors[k]
		from, to := max(t.from-first, 0), min(t.to-first, int64(len(out)))
		if from >= int64(len(out)) {
			break
		}
		scale := t.limit / float64(s.Half()) / divisor
		for at := int(from); at < int(to); {
			whole := block / s.Lanes * s.Lanes
			end := min(int(to), (at/whole+1)*whole)
			for lane := range s.Lanes {
				if i, j := coefficients(at, end, lane, s.Lanes); i < j {
					bad |= open(out, words, i, j, lane, s, int64(weight)*s.Half(), scale)
				}
			}
			at = end
		}
	}
	return beyond(bad, weight)
}

// beyond is the error of a sum that its terms cannot have.
func beyond(bad uint64, weight uint32) error {
	if bad>>63 != 0 {
		return fmt.Errorf("a lane holds more than %d terms can sum to: %w", weight, errs.ErrDecrypt)
	}
	return nil
}

// decodeTwo is Decode for coefficients of two words: lanes are shifted out one
// after the other.
func (l *Lanes) decodeTwo(out []float32, words [][]uint64, first int64, weight uint32, divisor float64, bad uint64) error {
	s := l.scheme
	o := lanesOut{offset: int64(weight) * s.Half(), width: uint(s.LaneWidth()), lanes: s.Lanes}
	low, high := words[0], words[1]
	for k := l.at(first); len(out) > 0; {
		t := &l.tensors[k]
		o.scale = t.limit / float64(s.Half()) / divisor
		// Coefficients that lie within the tensor, and then one that may not.
		whole := int(min(t.to-first, int64(len(out)))) / s.Lanes
		bad |= o.open(out[:whole*s.Lanes], low[:whole], high[:whole])
		out, low, high, first = out[whole*s.Lanes:], low[whole:], high[whole:], first+int64(whole*s.Lanes)
		if len(out) == 0 {
			break
		}
		lo, hi := low[0], high[0]
		n := min(s.Lanes, len(out))
		for j := range n {
			for first == l.tensors[k].to {
				k++
				o.scale = l.tensors[k].limit / float64(s.Half()) / divisor
			}
			v := lo & (1<<o.width - 1)
			lo, hi = lo>>o.width|hi<<(64-o.width), hi>>o.width
			bad |= uint64(2*o.offset) - v
			out[j] = float32(float64(int64(v)-o.offset) * o.scale)
			first++
		}
		out, low, high = out[n:], low[1:], high[1:]
		if len(out) > 0 && first == l.tensors[k].to {
			k++
		}
	}
	return beyond(bad, weight)
}

// lanesOut is what opening whole coefficients of one tensor needs.
type lanesOut struct {
	offset int64
	scale  float64
	width  uint
	lanes  int
}

// open writes the values of whole coefficients. Bit 63 of the result is set
// when a sum exceeds twice the offset.
func (o *lanesOut) open(out []float32, low, high []uint64) (bad uint64) {
	if o.lanes == 4 {
		var done int
		done, bad = kernel.Open(out, low, high, int(o.width), o.offset, o.scale)
		out, low, high = out[4*done:], low[done:], high[done:]
	}
	return bad | o.openPlain(out, low, high)
}

// openPlain is the portable form.
func (o *lanesOut) openPlain(out []float32, low, high []uint64) (bad uint64) {
	down, up := o.width&63, (64-o.width)&63
	mask, limit, offset, scale := uint64(1)<<o.width-1, uint64(2*o.offset), o.offset, o.scale
	high = high[:len(low)]
	if o.lanes == 4 {
		for i, lo := range low {
			hi, p := high[i], (*[4]float32)(out[4*i:])
			a := lo & mask
			lo, hi = lo>>down|hi<<up, hi>>down
			b := lo & mask
			lo, hi = lo>>down|hi<<up, hi>>down
			c := lo & mask
			d := (lo>>down | hi<<up) & mask
			bad |= (limit - a) | (limit - b) | (limit - c) | (limit - d)
			p[0] = float32(float64(int64(a)-offset) * scale)
			p[1] = float32(float64(int64(b)-offset) * scale)
			p[2] = float32(float64(int64(c)-offset) * scale)
			p[3] = float32(float64(int64(d)-offset) * scale)
		}
		return bad
	}
	for i, lo := range low {
		hi := high[i]
		p := out[i*o.lanes : (i+1)*o.lanes]
		for j := range p {
			v := lo & mask
			lo, hi = lo>>down|hi<<up, hi>>down
			bad |= limit - v
			p[j] = float32(float64(int64(v)-offset) * scale)
		}
	}
	return bad
}

// coefficients [i, j) are those whose given lane carries one of the values
// [from, to).
func coefficients(from, to, lane, lanes int) (i, j int) {
	return (from - lane + lanes - 1) / lanes, (to - lane + lanes - 1) / lanes
}

// place is where a lane lies: bits shift and up of low, and, unless high is
// nil, the rest in high.
func place(words [][]uint64, lane int, s *params.Scheme) (low, high []uint64, shift uint) {
	bit := lane * s.LaneWidth()
	low, shift = words[bit/64], uint(bit%64)
	if int(shift)+s.LaneWidth() > 64 {
		high = words[bit/64+1]
	}
	return low, high, shift
}

// open reads one lane of coefficients [i, j). Bit 63 of the result is set when
// a sum exceeds twice the offset.
func open(out []float32, words [][]uint64, i, j, lane int, s *params.Scheme, offset int64, scale float64) (bad uint64) {
	low, high, shift := place(words, lane, s)
	if high == nil {
		high = low
	}
	low, high, out = low[i:j], high[i:j], out[i*s.Lanes+lane:]
	done, bad := kernel.OpenLane(out, s.Lanes, low, high, int(shift), s.LaneWidth(), offset, scale)
	return bad | openPlain(out[min(done*s.Lanes, len(out)):], s.Lanes, low[done:], high[done:], shift, s.LaneWidth(), offset, scale)
}

// openPlain is the portable form. high does not count when the lane ends in
// low.
func openPlain(out []float32, lanes int, low, high []uint64, shift uint, width int, offset int64, scale float64) (bad uint64) {
	mask, limit := uint64(1)<<width-1, uint64(2*offset)
	down, up := shift&63, (64-shift)&63
	if int(shift)+width <= 64 {
		up = 63 // the one bit that comes from there is masked
	}
	at := 0
	for k, v := range low {
		v = (v>>down | high[k]<<up) & mask
		bad |= limit - v
		out[at] = float32(float64(int64(v)-offset) * scale)
		at += lanes
	}
	return bad
}

// unused has bit 63 set when a bit above the lanes is set in the first n
// coefficients, or one of a lane that carries no value in the last.
func unused(words [][]uint64, n, values int, s *params.Scheme) uint64 {
	top := s.Lanes * s.LaneWidth()
	rest := uint64(0)
	for w := top / 64; w < len(words); w++ {
		for _, v := range words[w][:n] {
			rest |= v >> (max(top-64*w, 0) & 63)
		}
	}
	used := (values - (n-1)*s.Lanes) * s.LaneWidth()
	for w := used / 64; w < len(words); w++ {
		rest |= words[w][n-1] >> (max(used-64*w, 0) & 63)
	}
	return rest | -rest
}
