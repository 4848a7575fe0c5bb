// Package fold adds frames: a modular sum of ciphertexts, each times a public
// integer weight. It knows no key, no encoding and no lattice library; what it
// computes is order-free, so that whoever folds the same set gets the same
// bytes.
//
// # Security
//
// Every byte of a frame is checked before it counts: a frame that is refused
// leaves the accumulator as it was.
//
// # Ownership
//
// An [Accumulator] keeps nothing of the frames it is given. It is used by one
// goroutine at a time and allocates nothing after the first Reset.
package fold

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

// run is the number of residues unpacked at a time: a multiple of 8, small
// enough to stay in the first-level cache.
const run = 512

// Accumulator is the running sum of the frames of one chunk.
type Accumulator struct {
	preset *params.Preset
	sums   [2][][]uint64 // by component and prime, N each; made by Reset
	want   frame.Header
	fault  error // why Add is refused since Reset
	terms  uint32
	weight uint32
	// pending is the weight whose residues sums may hold unreduced, beside
	// one reduced residue; spare[j] is how much of it 64 bits can carry.
	pending uint64
	spare   uint64
	block   [run]uint64
}

// New makes an accumulator for frames of the preset. Call Reset before Add.
func New(p *params.Preset) *Accumulator {
	a := &Accumulator{preset: p, spare: math.MaxUint64, fault: fmt.Errorf("fold: Add before Reset: %w", errs.ErrInternal)}
	for _, q := range p.Primes {
		a.spare = min(a.spare, math.MaxUint64/(q-1)-1)
	}
	return a
}

// Reset begins a sum of zero terms. Every frame added must have the header
// want, which is that of a contribution; when it is not, Add says so.
func (a *Accumulator) Reset(want frame.Header) {
	a.want, a.terms, a.weight, a.pending = want, 0, 0, 0
	if a.fault = a.suits(want); a.fault != nil {
		return
	}
	for c := range int(want.Components) {
		if a.sums[c] == nil {
			a.sums[c] = make([][]uint64, len(a.preset.Primes))
			for j := range a.sums[c] {
				a.sums[c][j] = make([]uint64, a.preset.N())
			}
			continue
		}
		for j := range a.sums[c] {
			clear(a.sums[c][j][:a.length(c)])
		}
	}
}

// suits reports why frames with the header want are not folded here.
func (a *Accumulator) suits(want frame.Header) error {
	if want.Preset != a.preset.ID {
		return fmt.Errorf("an accumulator of %s cannot fold preset %d: %w", a.preset.Name, want.Preset, errs.ErrFrameContext)
	}
	if want.Terms != 1 || want.Weight != 1 || want.Encoding == params.PublicKey {
		return fmt.Errorf("only contributions are folded, not sums or keys: %w", errs.ErrFrameContext)
	}
	var b [frame.HeaderSize]byte
	_, err := frame.ParseHeader(want.Append(b[:0]))
	return err
}

// Add checks a frame and adds it weight times. On an error the sum is what it
// was before.
func (a *Accumulator) Add(b []byte, weight uint32) error {
	if a.fault != nil {
		return a.fault
	}
	if _, err := frame.Expect(b, a.want); err != nil {
		return err
	}
	switch {
	case weight < 1 || weight > params.MaxWeight:
		return fmt.Errorf("public weight %d; weights reach from 1 to %d: %w", weight, params.MaxWeight, errs.ErrWeight)
	case weight != 1 && a.want.Components == 1:
		return fmt.Errorf("public weight %d in a sum without public weights: %w", weight, errs.ErrWeight)
	case a.terms == params.MaxClients:
		return fmt.Errorf("more than %d terms: %w", params.MaxClients, errs.ErrLimit)
	}
	if a.pending+uint64(weight) > a.spare {
		a.reduce()
	}
	body, w := b[frame.HeaderSize:], uint64(weight)
	if c, j, ok := a.accumulate(body, w, -1, -1); !ok {
		// Arithmetic modulo 2^64 undoes exactly what was added.
		a.accumulate(body, -w, c, j)
		return frame.Noncanonical(c, j)
	}
	a.terms++
	a.weight += weight
	a.pending += w
	return nil
}

// accumulate adds w times the body, up to and including the block of
// component lastC and prime lastJ, or to the first block that is not
// canonical, which it names.
func (a *Accumulator) accumulate(body []byte, w uint64, lastC, lastJ int) (c, j int, ok bool) {
	for c = range int(a.want.Components) {
		n := a.length(c)
		size := frame.BlockSize(n, a.preset.Width)
		for j = range a.preset.Primes {
			if !a.addBlock(a.sums[c][j][:n], body[:size], a.preset.Primes[j], w) && lastC < 0 {
				return c, j, false
			}
			if c == lastC && j == lastJ {
				return c, j, true
			}
			body = body[size:]
		}
	}
	return c, j, true
}

// addBlock adds w times the residues of one block. It goes through the whole
// block whatever it holds.
func (a *Accumulator) addBlock(sum []uint64, src []byte, q, w uint64) bool {
	if w == 1 {
		return frame.UnpackAdd(sum, src, a.preset.Width, q)
	}
	ok := true
	step := frame.BlockSize(run, a.preset.Width)
	for len(sum) > 0 {
		n := min(run, len(sum))
		if n < run {
			step = len(src)
		}
		block := a.block[:n]
		ok = frame.Unpack(block, src[:step], a.preset.Width, q) && ok
		s := sum[:n]
		for i, v := range block {
			s[i] += v * w
		}
		sum, src = sum[n:], src[step:]
	}
	return ok && len(src) == 0
}

// reduce brings every sum below its prime: Barrett with m = floor(2^64/q),
// whose quotient is at most one too small.
func (a *Accumulator) reduce() {
	for c := range int(a.want.Components) {
		for j, q := range a.preset.Primes {
			m := math.MaxUint64 / q
			sum := a.sums[c][j][:a.length(c)]
			for i, v := range sum {
				t, _ := bits.Mul64(v, m)
				r := v - t*q
				sum[i] = min(r, r-q)
			}
		}
	}
	a.pending = 0
}

// Terms is the number of frames added since Reset.
func (a *Accumulator) Terms() int { return int(a.terms) }

// Append appends the frame of the sum to dst: its Terms and Weight are those
// of everything added since Reset. It appends nothing when nothing was added,
// for which there is no frame. The sum can be continued afterwards.
func (a *Accumulator) Append(dst []byte) []byte {
	if a.fault != nil || a.terms == 0 {
		return dst
	}
	a.reduce()
	h := a.want
	h.Terms, h.Weight = a.terms, a.weight
	dst = h.Append(dst)
	for c := range int(h.Components) {
		n := a.length(c)
		size := frame.BlockSize(n, a.preset.Width)
		for j := range a.preset.Primes {
			dst = grow(dst, size)
			frame.Pack(dst[len(dst)-size:], a.sums[c][j][:n], a.preset.Width)
		}
	}
	return dst
}

// length is the number of coefficients of component c.
func (a *Accumulator) length(c int) int {
	if c == 1 {
		return a.preset.N()
	}
	return int(a.want.Coefficients)
}

// grow lengthens b by n bytes of any content.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) < n {
		b = append(make([]byte, 0, max(2*cap(b), len(b)+n)), b...)
	}
	return b[:len(b)+n]
}
