package kernel

import "math/bits"

// Factors are fixed residues that streams of words are multiplied by.
type Factors struct {
	n         int
	pairs     []float64 // four factors, then the same over q, and so on
	constants [6]float64
	q         uint64
}

// NewFactors takes residues modulo q. It returns nil when this processor or
// the kernel cannot multiply by them.
func NewFactors(q uint64, residues []uint64) *Factors {
	if !Available || len(residues)%8 != 0 || bits.Len64(q) > MaxWidth {
		return nil
	}
	f := &Factors{n: len(residues), constants: constants(q), q: q, pairs: make([]float64, 2*len(residues))}
	for i, w := range residues {
		at := i&^3<<1 | i&3
		f.pairs[at], f.pairs[at+4] = balanced(w, q)
	}
	return f
}

// Clear forgets the factors.
func (f *Factors) Clear() { clear(f.pairs) }
