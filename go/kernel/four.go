package kernel

import (
	"math"
	"math/bits"
)

// Digits makes mixed radix digits of residues of four primes.
type Digits struct{ constants []float64 }

// NewDigits takes the primes and, for j > l, inverse[j][l], q_l^-1 modulo q_j.
// It returns nil when this processor or the kernel cannot do it. The primes
// have one width and lie within 2^21 below 2^MaxWidth: a difference of numbers
// below twice a prime and below another is within twice the prime and 2^22, and
// products stay within a prime and 1 of zero, by the argument of [MaxWidth].
func NewDigits(primes [4]uint64, inverse [4][4]uint64) *Digits {
	d := &Digits{constants: []float64{math.Float64frombits(magic)}}
	for j, q := range primes {
		if !Available || bits.Len64(q) != MaxWidth || bits.Len64(1<<MaxWidth-q) > 21 {
			return nil
		}
		d.constants = append(d.constants, float64(q), 1/float64(q))
		for l := range j {
			w, over := balanced(inverse[j][l], q)
			d.constants = append(d.constants, w, over)
		}
	}
	return d
}
