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

// Join puts together what is known modulo two primes of one width.
type Join struct {
	One
	c     uint64 // 2^width − q0
	q     [2]uint64
	width int
}

// NewJoin takes the primes and q0^-1 modulo q1. It returns nil when this
// processor or the kernel cannot do it.
func NewJoin(q0, q1, inverse uint64) *Join {
	one := NewOne(q1, inverse)
	width := bits.Len64(q0)
	if one == nil || width != MaxWidth || bits.Len64(q1) != width {
		return nil
	}
	j := &Join{One: *one, c: 1<<width - q0, width: width}
	if bits.Len64(j.c) > 21 {
		return nil
	}
	j.q[1], j.q[0] = bits.Mul64(q0, q1)
	return j
}
