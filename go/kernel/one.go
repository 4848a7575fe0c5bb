package kernel

import "math/bits"

// One multiplies by one fixed residue modulo q.
type One struct{ constants [6]float64 }

// NewOne takes a residue modulo q. It returns nil when this processor or the
// kernel cannot do it.
func NewOne(q, residue uint64) *One {
	if !Available || bits.Len64(q) > MaxWidth {
		return nil
	}
	o := &One{constants(q)}
	o.constants[3], o.constants[4] = balanced(residue, q)
	return o
}
