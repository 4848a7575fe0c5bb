// Package encoding turns float32 values into the coefficients of plaintext
// polynomials and sums of such polynomials back into means: fixed-point
// integers in lanes for the values, 16-bit limbs for the control chunk.
// docs/spec.md, §5, states both exactly.
//
// # Security
//
// Encoding clips whatever it is given: no value can leave its lane. Loops do
// not branch on values. Decoding refuses sums that no set of honest clients
// can have produced.
//
// # Ownership
//
// Nothing is kept of the slices given. A [Lanes] is immutable and may be
// shared by goroutines.
package encoding

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/kernel"
	"github.com/cryptflow/cryptflow/go/params"
)

// block is the number of values treated at a time, so that they stay in the
// first-level cache while lane after lane is filled.
const block = 1024

// Tensor is a run of consecutive values with one range: the largest magnitude
// that travels unclipped. The values of a precise tensor travel in several
// digits, of which the first is what others send.
type Tensor struct {
	Count   int64
	Range   float32
	Precise bool
}

// Lanes encodes and decodes the values of one layout.
type Lanes struct {
	scheme  *params.Scheme
	tensors []tensor // those given, and then the further digits of precise ones
	given   int
	values  int64 // of the tensors given
	sealed  int64 // of all
}

// tensor is a Tensor and where it lies; from is inclusive, to is not.
type tensor struct {
	from, to int64
	limit    float64 // Range
	precise  bool    // rounded to nearest, so that nothing but the value says what is left
	digits   int64   // where the further digits of a precise tensor begin
}

// NewLanes checks the tensors of a layout, in order.
func NewLanes(s *params.Scheme, tensors []Tensor) (*Lanes, error) {
	l := &Lanes{scheme: s}
	for i, t := range tensors {
		if t.Count < 0 || t.Count > params.MaxValues-l.values {
			return nil, fmt.Errorf("tensor %d has %d values: %w", i, t.Count, errs.ErrLayout)
		}
		if !(t.Range > 0) || t.Range > math.MaxFloat32 {
			return nil, fmt.Errorf("tensor %d: a range is a positive finite number: %w", i, errs.ErrParameters)
		}
		one := tensor{from: l.values, to: l.values + t.Count, limit: float64(t.Range), precise: t.Precise}
		l.tensors = append(l.tensors, one)
		l.values += t.Count
	}
	if l.values == 0 {
		return nil, fmt.Errorf("the layout has no values: %w", errs.ErrLayout)
	}
	return l, l.digits()
}

// Values is the number of values of the layout.
func (l *Lanes) Values() int64 { return l.values }

// Sealed is the number of integers that travel: the values and then the further
// digits of those in precise tensors.
func (l *Lanes) Sealed() int64 { return l.sealed }

// at is the index of the tensor that holds value v.
func (l *Lanes) at(v int64) int {
	low, high := 0, len(l.tensors)
	for low < high {
		if mid := (low + high) / 2; l.tensors[mid].to <= v {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// quantiser is how values of one tensor become integers.
type quantiser struct {
	scale  float64 // steps a unit
	last   uint32  // bits of the largest magnitude that is not clipped
	beyond uint32  // what larger magnitudes are replaced by: more than last
	half   int64   // M
}

// quantiser of a tensor whose values are multiplied by factor: y =
// x·(factor·(M/range)), clipped where |x| > range/factor.
func (l *Lanes) quantiser(t *tensor, factor float64) quantiser {
	m := l.scheme.Half()
	limit := t.limit / factor
	last := float32(math.Min(limit, math.MaxFloat32))
	if float64(last) > limit {
		last = math.Nextafter32(last, 0)
	}
	q := quantiser{scale: factor * (float64(m) / t.limit), last: math.Float32bits(last), half: m}
	q.beyond = min(q.last+1, math.Float32bits(math.MaxFloat32))
	return q
}

// Seen is what Scan saw of one tensor.
type Seen struct {
	Clipped uint64  // values that Encode will clip
	Largest float32 // the largest magnitude
}

// Scan looks at values, which begin at index first of the update: it returns
// the index of the first tensor that holds NaN or an infinity, or -1, and adds
// what it saw to seen, by tensor.
func (l *Lanes) Scan(values []float32, first int64, factor float64, seen []Seen) int {
	for k := l.at(first); len(values) > 0; k++ {
		t := &l.tensors[k]
		n := min(int64(len(values)), t.to-first)
		last := l.quantiser(t, factor).last
		inside, largest := count(values[:n], last)
		if largest > math.Float32bits(math.MaxFloat32) {
			return k
		}
		seen[k].Clipped += uint64(n) - inside
		seen[k].Largest = max(seen[k].Largest, math.Float32frombits(largest))
		values, first = values[n:], first+n
	}
	return -1
}

// count counts the values whose magnitude is at most that of the bits last,
// and returns the bits of the largest magnitude: those of NaN and infinities
// are above those of all others.
func count(values []float32, last uint32) (inside uint64, largest uint32) {
	done, beyond, largest := kernel.Magnitudes(values, last)
	rest, most := countPlain(values[done:], last)
	return uint64(done) - beyond + rest, max(largest, most)
}

// countPlain is the portable form.
func countPlain(values []float32, last uint32) (inside uint64, largest uint32) {
	for _, x := range values {
		a := math.Float32bits(x) &^ (1 << 31)
		largest = max(largest, a)
		inside += uint64(int64(a)-int64(last)-1) >> 63
	}
	return inside, largest
}

// Encode writes to words the plaintext of a chunk whose values begin at index
// first of the update, each times factor. Stochastic rounding takes four bytes
// of rho a value; nearest-even ignores them. It returns the number of
// coefficients written.
func (l *Lanes) Encode(words [][]uint64, values []float32, first int64, factor float64, rho []byte) int {
	return l.EncodeWith(words, values, nil, first, factor, rho)
}

// EncodeWith is Encode of a chunk that has further digits, of [Lanes.Split],
// after its values.
func (l *Lanes) EncodeWith(
	words [][]uint64, values []float32, digits []uint32, first int64, factor float64, rho []byte,
) int {
	s := l.scheme
	total := len(values) + len(digits)
	n := (total + s.Lanes - 1) / s.Lanes
	if s.Rounding == params.Stochastic {
		rho = rho[:4*len(values)]
	}
	k := l.at(first)
	q := l.quantiser(&l.tensors[k], factor)
	var steps [block]uint32
	whole := block / s.Lanes * s.Lanes
	for at := 0; at < total; at += whole {
		end := min(at+whole, total)
		for from := at; from < min(end, len(values)); {
			for l.tensors[k].to <= first+int64(from) {
				k++
				q = l.quantiser(&l.tensors[k], factor)
			}
			to := int(min(int64(end), l.tensors[k].to-first, int64(len(values))))
			if s.Rounding == params.Stochastic && !l.tensors[k].precise {
				q.stochastic(steps[from-at:to-at], values[from:to], rho[4*from:4*to])
			} else {
				q.nearest(steps[from-at:to-at], values[from:to])
			}
			from = to
		}
		if from := max(at, len(values)); from < end {
			copy(steps[from-at:end-at], digits[from-len(values):end-len(values)])
		}
		padded := (end - at + s.Lanes - 1) / s.Lanes * s.Lanes
		clear(steps[end-at : padded])
		fill(words, steps[:padded], at/s.Lanes, s)
	}
	return n
}

// stochastic rounds values to steps: with Y = |y|·2^32 truncated and clipped
// to M·2^32, and the sign put back, u = floor((Y + ρ)/2^32) + M.
func (q *quantiser) stochastic(steps []uint32, values []float32, rho []byte) {
	done := kernel.Stochastic(steps, values, rho, q.scale*(1<<32), q.half, q.beyond)
	q.stochasticPlain(steps[done:], values[done:], rho[4*done:])
}

// stochasticPlain is the portable form.
func (q *quantiser) stochasticPlain(steps []uint32, values []float32, rho []byte) {
	scale, bound, offset, beyond := q.scale*(1<<32), q.half<<32, q.half<<32, q.beyond
	steps, rho = steps[:len(values)], rho[:4*len(values)]
	for len(values) >= 4 {
		v, r, u := (*[4]float32)(values), (*[16]byte)(rho), (*[4]uint32)(steps)
		u[0] = stochastic(v[0], binary.LittleEndian.Uint32(r[0:]), scale, bound, offset, beyond)
		u[1] = stochastic(v[1], binary.LittleEndian.Uint32(r[4:]), scale, bound, offset, beyond)
		u[2] = stochastic(v[2], binary.LittleEndian.Uint32(r[8:]), scale, bound, offset, beyond)
		u[3] = stochastic(v[3], binary.LittleEndian.Uint32(r[12:]), scale, bound, offset, beyond)
		values, rho, steps = values[4:], rho[16:], steps[4:]
	}
	for i, x := range values {
		steps[i] = stochastic(x, binary.LittleEndian.Uint32(rho[4*i:]), scale, bound, offset, beyond)
	}
}

func stochastic(x float32, rho uint32, scale float64, bound, offset int64, beyond uint32) uint32 {
	b := math.Float32bits(x)
	y := int64(float64(math.Float32frombits(min(b&^(1<<31), beyond))) * scale)
	sign := int64(int32(b) >> 31)
	y = min(y, bound) ^ sign - sign
	return uint32((y + int64(rho) + offset) >> 32)
}

// even is added to round a float64 below 2^51 to the nearest integer, ties to
// even, in the way of the hardware; the integer is then in the low bits.
const even = 3 << 51

// nearest rounds values to steps: u = |y| to nearest, ties to even, clipped to
// M, with the sign put back, + M.
func (q *quantiser) nearest(steps []uint32, values []float32) {
	steps = steps[:len(values)]
	for i, x := range values {
		b := math.Float32bits(x)
		// The conversion keeps the compiler from fusing the two operations.
		y := float64(float64(math.Float32frombits(min(b&^(1<<31), q.beyond)))*q.scale) + even
		n := min(int64(math.Float64bits(y)-math.Float64bits(even)), q.half)
		sign := int64(int32(b) >> 31)
		steps[i] = uint32(n ^ sign - sign + q.half)
	}
}

// fill packs whole coefficients from the given one on: lane k of a coefficient
// at bits k·(β+g) and up.
func fill(words [][]uint64, steps []uint32, from int, s *params.Scheme) {
	n := len(steps) / s.Lanes
	if len(words) == 2 {
		fillTwo(words[0][from:from+n], words[1][from:from+n], steps, s.Lanes, uint(s.LaneWidth()))
		return
	}
	for w := range words {
		clear(words[w][from : from+n])
	}
	for lane := 0; lane < s.Lanes; {
		bit := lane * s.LaneWidth()
		low, shift := words[bit/64][from:from+n], bit%64
		if next := shift + s.LaneWidth(); next+s.LaneWidth() <= 64 && lane+1 < s.Lanes {
			pair(low, steps[lane:], s.Lanes, shift, next)
			lane += 2
			continue
		}
		at := lane
		for i := range low {
			low[i] |= uint64(steps[at]) << (shift & 63)
			at += s.Lanes
		}
		if shift+s.LaneWidth() > 64 {
			at = lane
			high := words[bit/64+1][from : from+n]
			for i := range high {
				high[i] |= uint64(steps[at]) >> ((64 - shift) & 63)
				at += s.Lanes
			}
		}
		lane++
	}
}

// fillTwo is fill for coefficients of two words: lane after lane is shifted in
// from the last on.
func fillTwo(low, high []uint64, steps []uint32, lanes int, width uint) {
	high = high[:len(low)]
	if lanes == 4 {
		done := kernel.Fill(low, high, steps, int(width))
		low, high, steps = low[done:], high[done:], steps[4*done:]
	}
	fillPlain(low, high, steps, lanes, width)
}

// fillPlain is the portable form.
func fillPlain(low, high []uint64, steps []uint32, lanes int, width uint) {
	up, down := width&63, (64-width)&63
	if lanes == 4 {
		for i := range low {
			p := (*[4]uint32)(steps[4*i:])
			h, l := uint64(0), uint64(p[3])<<up|uint64(p[2])
			h, l = l>>down, l<<up|uint64(p[1])
			high[i], low[i] = h<<up|l>>down, l<<up|uint64(p[0])
		}
		return
	}
	for i := range low {
		p := steps[i*lanes : (i+1)*lanes]
		h, l := uint64(0), uint64(0)
		for k := len(p) - 1; k >= 0; k-- {
			h, l = h<<up|l>>down, l<<up|uint64(p[k])
		}
		high[i], low[i] = h, l
	}
}

// pair packs two neighbouring lanes that lie in one word.
func pair(low []uint64, steps []uint32, stride, first, second int) {
	for i, w := range low {
		p := (*[2]uint32)(steps[i*stride:])
		low[i] = w | uint64(p[0])<<(first&63) | uint64(p[1])<<(second&63)
	}
}
