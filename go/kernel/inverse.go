package kernel

import (
	"math"
	"math/bits"
)

// MaxWidth is the largest bit length of a modulus that the transform takes.
//
// Numbers are kept as doubles. With q < 2^51 every sum below 2^53 is exact.
// A product d·w with |w| ≤ q/2 is computed as h + l, h = fl(d·w) and l exact
// by FMA, less c·q for c = round(fl(d·fl(w/q))). Its argument is within |d|/2 of
// zero and two roundings of 2^-53 off, so that c is off by at most 1/2 +
// |d|/2·2^-52, hence for |d| ≤ 2q < 2^52 the result is within q of zero, and
// h − c·q, an integer below 2^53, is exact.
// Sums are reduced to q/2 in every layer: with both inputs of a butterfly
// within q, differences are within 2q. By induction that holds in all layers.
const MaxWidth = 51

// magic is 2^52 as a double: added to an integer below it, the integer is in
// the low bits.
const magic = 0x4330000000000000

// Inverse is the inverse negacyclic number-theoretic transform modulo one
// prime, of the order of lattigo's: butterflies of Gentleman and Sande over
// bit-reversed powers of ψ^-1, then 1/N. Immutable; safe for concurrent use.
type Inverse struct {
	n         int
	first     []float64   // twiddles of the layers of distance 1, 2, 4
	layers    [][]float64 // of distance 8, 16, …
	constants [6]float64
}

// NewInverse makes a transform of n values modulo q, given the bit-reversed
// table of powers of ψ^-1 (plain residues) and 1/n modulo q. It returns nil
// when this processor or the kernel cannot do it; the caller's portable
// transform then does.
func NewInverse(q uint64, roots []uint64, inverseN uint64) *Inverse {
	n := len(roots)
	if !Available || n < 64 || n&(n-1) != 0 || bits.Len64(q) > MaxWidth {
		return nil
	}
	t := &Inverse{n: n}
	t.constants = constants(q)
	t.constants[3], t.constants[4] = balanced(inverseN, q)
	for b := range n / 8 {
		// In the registers of the kernel, block b of eight values has its
		// pairs of distance 1 in the order 0 2 1 3.
		one, two, four := roots[n/2+4*b:], roots[n/4+2*b:], roots[n/8+b]
		t.first = twiddles(q, t.first, one[0], one[2], one[1], one[3])
		t.first = twiddles(q, t.first, two[0], two[1], two[0], two[1])
		t.first = twiddles(q, t.first, four)
	}
	for groups := n / 16; groups >= 1; groups /= 2 {
		var layer []float64
		for i := range groups {
			layer = twiddles(q, layer, roots[groups+i])
		}
		t.layers = append(t.layers, layer)
	}
	return t
}

// balanced is a residue within q/2 of zero, and the same over q. Residues may
// be those of a secret: nothing branches on them.
func balanced(w, q uint64) (residue, over float64) {
	above := uint64(int64(q/2-w) >> 63) // all ones where w > q/2
	v := float64(int64(w - q&above))
	return v, v / float64(q)
}

// constants are what the kernels read beside their tables: q, 1/q, 2^52, a
// factor and the same over q, and the integer q − 1.
func constants(q uint64) [6]float64 {
	return [6]float64{float64(q), 1 / float64(q), math.Float64frombits(magic), 0, 0, math.Float64frombits(q - 1)}
}
