package kernel

import "math/bits"

// Forward is the negacyclic number-theoretic transform modulo one prime, of
// the order of lattigo's: butterflies of Cooley and Tukey over bit-reversed
// powers of ψ. Immutable; safe for concurrent use.
//
// Its numbers are bounded as those of [Inverse]: values are within q of zero
// at first and within q/2 after every layer, so that a product is within q, and
// sums and differences, before they are reduced, within 2q.
type Forward struct {
	n         int
	layers    [][]float64 // of distance n/2, n/4, … 8
	last      []float64   // twiddles of the layers of distance 4, 2, 1
	constants [6]float64
}

// NewForward makes a transform of n values modulo q, given the bit-reversed
// table of powers of ψ (plain residues). It returns nil when this processor or
// the kernel cannot do it; the caller's portable transform then does.
func NewForward(q uint64, roots []uint64) *Forward {
	n := len(roots)
	if !Available || n < 64 || n&(n-1) != 0 || bits.Len64(q) > MaxWidth {
		return nil
	}
	t := &Forward{n: n, constants: constants(q)}
	for groups := 1; groups <= n/16; groups *= 2 {
		var layer []float64
		for i := range groups {
			layer = twiddles(q, layer, roots[groups+i])
		}
		t.layers = append(t.layers, layer)
	}
	for b := range n / 8 {
		four, two, one := roots[n/8+b], roots[n/4+2*b:], roots[n/2+4*b:]
		t.last = twiddles(q, t.last, four)
		t.last = twiddles(q, t.last, two[0], two[0], two[1], two[1])
		t.last = twiddles(q, t.last, one[:4]...)
	}
	return t
}

// twiddles appends the factors ws, then the same over q.
func twiddles(q uint64, dst []float64, ws ...uint64) []float64 {
	var over []float64
	for _, w := range ws {
		v, o := balanced(w, q)
		dst, over = append(dst, v), append(over, o)
	}
	return append(dst, over...)
}
