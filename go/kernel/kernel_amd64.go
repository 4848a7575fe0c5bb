package kernel

import (
	"math"

	"golang.org/x/sys/cpu"
)

// Available reports whether this processor runs the kernels.
var Available = cpu.X86.HasAVX2 && cpu.X86.HasFMA

// Thresholds is the size of the sampler's table.
const Thresholds = 40

// Gauss fills the first samples of dst, eight at a time, from as many words of
// the stream and returns how many: see ckks, whose portable sampler does the
// rest and is what this computes.
func Gauss(dst []int32, stream []byte, last *[Thresholds]uint64) int {
	turns := len(dst) / 8
	if !Available || turns == 0 || len(stream) < 64*turns {
		return 0
	}
	gauss8(&dst[0], &stream[0], &last[0], turns)
	return 8 * turns
}

// Stochastic rounds the first values to steps, eight at a time, with four bytes
// of rho each, and returns how many: see encoding, whose portable form does
// the rest and is what this computes. scale includes 2^32; half is at most
// 2^19, so that everything is exact in a double.
func Stochastic(steps []uint32, values []float32, rho []byte, scale float64, half int64, beyond uint32) int {
	turns := len(values) / 8
	if !Available || turns == 0 || half > 1<<19 || len(steps) < 8*turns || len(rho) < 32*turns {
		return 0
	}
	constants := [5]uint64{math.Float64bits(scale), math.Float64bits(float64(half << 32)), magic, uint64(half) << 32, uint64(beyond)}
	stochastic8(&steps[0], &values[0], &rho[0], &constants[0], turns)
	return 8 * turns
}

// Multiply writes the products of the words of a stream, little-endian and
// masked, and the factors modulo q. It reports whether every word is below q;
// dst is meaningless otherwise.
func (f *Factors) Multiply(dst []uint64, words []byte, mask uint64) bool {
	dst, words = dst[:f.n], words[:8*f.n]
	return multiply8(&dst[0], &words[0], &f.pairs[0], &f.constants[0], mask, f.n/8)>>63 == 0
}

// Message adds high·factor + low + e to the first residues of c, eight at a
// time, and returns how many. Limbs are at most 2^51.
func (o *One) Message(c, high, low []uint64, e []int32) int {
	turns := len(c) / 8
	if o == nil || turns == 0 {
		return 0
	}
	high, low, e = high[:len(c)], low[:len(c)], e[:len(c)]
	message8(&c[0], &high[0], &low[0], &e[0], &o.constants[0], turns)
	return 8 * turns
}

// Difference writes (a − b)·factor to dst for residues a and b below 2q, eight
// at a time, and returns how many.
func (o *One) Difference(dst, a, b []uint64) int {
	turns := len(dst) / 8
	if o == nil || turns == 0 {
		return 0
	}
	a, b = a[:len(dst)], b[:len(dst)]
	difference8(&dst[0], &a[0], &b[0], &o.constants[0], turns)
	return 8 * turns
}

// Transform does t's inverse transform in place on residues below q.
func (t *Inverse) Transform(p []uint64) {
	p = p[:t.n]
	inverseFirst(&p[0], &t.first[0], &t.constants[0], t.n/8)
	for i, layer := range t.layers {
		distance := 8 << i
		inverseLayer(&p[0], &layer[0], &t.constants[0], t.n/(2*distance), distance)
	}
	inverseLast(&p[0], &t.constants[0], t.n/8)
}
