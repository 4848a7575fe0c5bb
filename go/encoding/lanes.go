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
	"github.com/cryptflow/cryptflow/go/params"
)

// block is the number of coefficients treated at a time, so that their values
// stay in the first-level cache while lane after lane is filled.
const block = 256

// Tensor is a run of consecutive values with one range: the largest magnitude
// that travels unclipped.
type Tensor struct {
	Count int64
	Range float32
}

// Lanes encodes and decodes the values of one layout.
type Lanes struct {
	scheme  *params.Scheme
	tensors []tensor
	values  int64
}

// tensor is a Tensor and where it lies; from is inclusive, to is not.
type tensor struct {
	from, to int64
	limit    float64 // Range
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
		l.tensors = append(l.tensors, tensor{from: l.values, to: l.values + t.Count, limit: float64(t.Range)})
		l.values += t.Count
	}
	if l.values == 0 {
		return nil, fmt.Errorf("the layout has no values: %w", errs.ErrLayout)
	}
	return l, nil
}

// Values is the number of values of the layout.
func (l *Lanes) Values() int64 { return l.values }

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
	beyond uint32  // bits of the smallest magnitude that is clipped
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
	return quantiser{scale: factor * (float64(m) / t.limit), beyond: math.Float32bits(last) + 1, half: m}
}

// Scan looks at values, which begin at index first of the update: it returns
// the index of the first tensor that holds NaN or an infinity, or -1, and adds
// to clipped, by tensor, the number of values that Encode will clip.
func (l *Lanes) Scan(values []float32, first int64, factor float64, clipped []uint64) int {
	for k := l.at(first); len(values) > 0; k++ {
		t := &l.tensors[k]
		n := min(int64(len(values)), t.to-first)
		beyond := l.quantiser(t, factor).beyond
		var over, bad uint64
		for _, x := range values[:n] {
			a := math.Float32bits(x) &^ (1 << 31)
			over += uint64(int64(beyond)-1-int64(a)) >> 63
			bad |= uint64(0x7f7fffff - int64(a))
		}
		if bad>>63 != 0 {
			return k
		}
		clipped[k] += over
		values, first = values[n:], first+n
	}
	return -1
}

// Encode writes to words the plaintext of a chunk whose values begin at index
// first of the update, each times factor. Stochastic rounding takes four bytes
// of rho a value; nearest-even ignores them. It returns the number of
// coefficients written.
func (l *Lanes) Encode(words [][]uint64, values []float32, first int64, factor float64, rho []byte) int {
	s := l.scheme
	n := (len(values) + s.Lanes - 1) / s.Lanes
	for w := range words {
		clear(words[w][:n])
	}
	if s.Rounding == params.Stochastic {
		rho = rho[:4*len(values)]
	}
	for k := l.at(first); k < len(l.tensors); k++ {
		t := &l.tensors[k]
		from, to := max(t.from-first, 0), min(t.to-first, int64(len(values)))
		if from >= int64(len(values)) {
			break
		}
		q := l.quantiser(t, factor)
		for at := int(from); at < int(to); {
			end := min(int(to), (at/s.Lanes/block+1)*block*s.Lanes)
			for lane := range s.Lanes {
				i, j := coefficients(at, end, lane, s.Lanes)
				if i >= j {
					continue
				}
				if s.Rounding == params.Stochastic {
					q.stochastic(words, values, rho, i, j, lane, s)
				} else {
					q.nearest(words, values, i, j, lane, s)
				}
			}
			at = end
		}
	}
	return n
}

// coefficients [i, j) are those whose given lane carries one of the values
// [from, to).
func coefficients(from, to, lane, lanes int) (i, j int) {
	return (from - lane + lanes - 1) / lanes, (to - lane + lanes - 1) / lanes
}

// place is where a lane lies: bits shift and up of words[low], and, if wide,
// the rest in words[low+1].
func place(words [][]uint64, lane int, s *params.Scheme) (low, high []uint64, shift uint) {
	bit := lane * s.LaneWidth()
	low, shift = words[bit/64], uint(bit%64)
	if int(shift)+s.LaneWidth() > 64 {
		high = words[bit/64+1]
	}
	return low, high, shift
}

// stochastic fills one lane of coefficients [i, j): with Y = y·2^32 truncated
// and clipped to ±M·2^32, u = floor((Y + ρ)/2^32) + M.
func (q quantiser) stochastic(words [][]uint64, values []float32, rho []byte, i, j, lane int, s *params.Scheme) {
	low, high, shift := place(words, lane, s)
	low = low[:j]
	scale, bound := q.scale*(1<<32), q.half<<32
	at := i*s.Lanes + lane
	for ; i < j; i++ {
		b := math.Float32bits(values[at])
		b = min(b&^(1<<31), q.beyond) | b&(1<<31)
		y := int64(float64(math.Float32frombits(b)) * scale)
		y = min(max(y, -bound), bound) + int64(binary.LittleEndian.Uint32(rho[4*at:]))
		u := uint64(y>>32 + q.half)
		low[i] |= u << (shift & 63)
		if high != nil {
			high[i] |= u >> (64 - shift)
		}
		at += s.Lanes
	}
}

// even is added and subtracted to round a float64 below 2^51 to the nearest
// integer, ties to even, in the way of the hardware.
const even = 3 << 51

// nearest fills one lane of coefficients [i, j): u = y rounded to nearest,
// ties to even, clipped to ±M, + M.
func (q quantiser) nearest(words [][]uint64, values []float32, i, j, lane int, s *params.Scheme) {
	low, high, shift := place(words, lane, s)
	low = low[:j]
	at := i*s.Lanes + lane
	for ; i < j; i++ {
		b := math.Float32bits(values[at])
		b = min(b&^(1<<31), q.beyond) | b&(1<<31)
		// The conversion keeps the compiler from fusing the two operations.
		y := float64(float64(math.Float32frombits(b))*q.scale) + even
		n := int64(math.Float64bits(y)) - int64(math.Float64bits(even))
		u := uint64(min(max(n, -q.half), q.half) + q.half)
		low[i] |= u << (shift & 63)
		if high != nil {
			high[i] |= u >> (64 - shift)
		}
		at += s.Lanes
	}
}
