package kernel

import "golang.org/x/sys/cpu"

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
