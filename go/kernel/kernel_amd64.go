package kernel

import (
	"encoding/binary"
	"math"

	"github.com/klauspost/cpuid/v2"
	"golang.org/x/sys/cpu"
)

// Available reports whether this processor runs the kernels.
var Available = cpu.X86.HasAVX2 && cpu.X86.HasFMA

// HasCounter reports whether this processor has vector AES instructions.
var HasCounter = Available && cpuid.CPU.Supports(cpuid.VAES, cpuid.AESNI)

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

// Message adds messages of two words, times 2^logDelta, and errors to the first
// residues of c, eight at a time, and returns how many.
func (o *One) Message(c, low, high []uint64, e []int32, logDelta, width int) int {
	turns := len(c) / 8
	if o == nil || turns == 0 || logDelta > width {
		return 0
	}
	low, high, e = low[:len(c)], high[:len(c)], e[:len(c)]
	up := uint64(width - logDelta)
	counts := [7]uint64{uint64(logDelta), 0, up, 0, 64 - up, 0, 1<<width - 1}
	message8(&c[0], &low[0], &high[0], &e[0], &o.constants[0], &counts[0], turns)
	return 8 * turns
}

// Limbs adds messages of four limbs, which are multiplied with the powers of
// o's residue, and errors to the first residues of c, eight at a time, and
// returns how many. Limbs are below 2^[MaxWidth], and o's residue below 2^21.
func (o *One) Limbs(c []uint64, limbs *[4][]uint64, e []int32) int {
	turns := len(c) / 8
	if o == nil || turns == 0 {
		return 0
	}
	l0, l1, l2, l3, e := limbs[0][:len(c)], limbs[1][:len(c)], limbs[2][:len(c)], limbs[3][:len(c)], e[:len(c)]
	limbs8(&c[0], &l0[0], &l1[0], &l2[0], &l3[0], &e[0], &o.constants[0], turns)
	return 8 * turns
}

// Mixed overwrites the first residues, below twice their primes, with digits,
// four at a time, and returns how many.
func (d *Digits) Mixed(r0, r1, r2, r3 []uint64) int {
	turns := len(r0) / 4
	if d == nil || turns == 0 {
		return 0
	}
	r1, r2, r3 = r1[:len(r0)], r2[:len(r0)], r3[:len(r0)]
	digits4(&r0[0], &r1[0], &r2[0], &r3[0], &d.constants[0], turns)
	return 4 * turns
}

// Words writes the words of the first plaintexts with residues a modulo q0 and
// b modulo q1, four at a time, and returns how many, and a word whose bit 63
// is set when a remainder is beyond the bound.
func (j *Join) Words(low, high, a, b []uint64, logDelta int, bound uint64) (done int, bad uint64) {
	turns := len(a) / 4
	if j == nil || turns == 0 || logDelta < 1 || logDelta > j.width || bound >= 1<<j.width {
		return 0, 0
	}
	low, high, b = low[:len(a)], high[:len(a)], b[:len(a)]
	half, up := uint64(1)<<(logDelta-1), uint64(j.width-logDelta)
	var k [42]uint64
	k[0], k[2], k[4] = uint64(logDelta), up, 64-up
	mask := uint64(1)<<j.width - 1
	for i, v := range [9]uint64{j.c, half + 4<<j.width, mask, 4, j.q[0] & mask, j.q[0]>>j.width | j.q[1]<<(64-j.width), 2*half - 1, half, bound} {
		for lane := range 4 {
			k[6+4*i+lane] = v
		}
	}
	bad = join4(&low[0], &high[0], &a[0], &b[0], &j.constants[0], &k[0], turns)
	return 4 * turns, bad
}

// turns writes whole turns of blocks, counted from the given one.
func (c *Counter) turns(dst []byte, nonce *[12]byte, from uint32) {
	if len(dst) == 0 {
		return
	}
	var first [24]uint32
	for half := range 2 {
		for i := range 3 {
			first[4*half+i] = binary.LittleEndian.Uint32(nonce[4*i:])
			first[8+4*half+i] = 0x03020100 + 0x04040404*uint32(i)
		}
		first[4*half+3] = from + uint32(half)
		first[8+4*half+3] = 0x0c0d0e0f
		first[16+4*half+3] = 2
	}
	counter16(&dst[0], &c.keys[0], c.rounds, &first[0], len(dst)/256)
}

// Unpack writes the first residues that are packed in src, or with add adds
// them to dst, eight at a time. It returns how many, and a word whose bit 63 is
// set when one is not below q. Widths of 51 and 52 bits are taken.
func Unpack(dst []uint64, src []byte, width int, q uint64, add bool) (done int, bad uint64) {
	turns := len(dst) / 8
	if !Available || turns == 0 || len(src) < turns*width {
		return 0, 0
	}
	constants := [2]uint64{q - 1, 1<<width - 1}
	switch {
	case width == 51 && add:
		bad = add51(&dst[0], &src[0], &constants[0], turns)
	case width == 51:
		bad = unpack51(&dst[0], &src[0], &constants[0], turns)
	case width == 52 && add:
		bad = add52(&dst[0], &src[0], &constants[0], turns)
	case width == 52:
		bad = unpack52(&dst[0], &src[0], &constants[0], turns)
	default:
		return 0, 0
	}
	return 8 * turns, bad
}

// Magnitudes looks at the first values, sixteen at a time. It returns how many,
// how many of them have magnitudes with bits above last, and the largest bits.
func Magnitudes(values []float32, last uint32) (done int, beyond uint64, largest uint32) {
	turns := len(values) / 16
	if !Available || turns == 0 || turns > 1<<30 {
		return 0, 0, 0
	}
	var out [16]uint32
	magnitudes16(&values[0], last, turns, &out[0])
	for i := range 8 {
		beyond += uint64(out[i])
		largest = max(largest, out[8+i])
	}
	return 16 * turns, beyond, largest
}

// counts of shifts for four lanes of width bits: see the kernels.
func counts(width int) (c [18]uint64) {
	for lane := range 3 {
		s := uint64((lane + 1) * width)
		c[2*lane], c[6+2*lane], c[12+2*lane] = s, 64-s, s-64
	}
	return c
}

// Fill packs steps into coefficients of four lanes of width bits in two words,
// four coefficients at a time, and returns how many.
func Fill(low, high []uint64, steps []uint32, width int) int {
	turns := len(low) / 4
	if !Available || turns == 0 {
		return 0
	}
	high, steps = high[:len(low)], steps[:4*len(low)]
	c := counts(width)
	fill4(&low[0], &high[0], &steps[0], &c[0], turns)
	return 4 * turns
}

// Open writes the values of coefficients of four lanes of width bits, at most
// 48, in two words, four coefficients at a time: (lane − offset)·scale. It
// returns how many coefficients, and a word whose bit 63 is set when a lane
// exceeds twice the offset.
func Open(out []float32, low, high []uint64, width int, offset int64, scale float64) (done int, bad uint64) {
	turns := len(low) / 4
	if !Available || turns == 0 || width > 48 || offset < 0 || offset > 1<<51 {
		return 0, 0
	}
	high, out = high[:len(low)], out[:4*len(low)]
	c := counts(width)
	constants := openConstants(width, offset, scale)
	bad = open4(&out[0], &low[0], &high[0], &c[0], &constants[0], turns)
	return 4 * turns, bad
}

// openConstants are what lanes of sums are turned into values with.
func openConstants(width int, offset int64, scale float64) [5]uint64 {
	return [5]uint64{1<<width - 1, uint64(2 * offset), magic, math.Float64bits(math.Float64frombits(magic) + float64(offset)), math.Float64bits(scale)}
}

// above is how far the upper word of bits [at, at+width) is shifted up; 64,
// which shifts everything out, when they end in the lower.
func above(at, width int) uint64 {
	if at+width <= 64 {
		return 64
	}
	return uint64(64 - at)
}

// OpenLane is Open of one lane: bits [at, at+width) of coefficients in two
// words, at below 64, of which high does not count when the lane ends in low.
// Values are stride apart.
func OpenLane(out []float32, stride int, low, high []uint64, at, width int, offset int64, scale float64) (done int, bad uint64) {
	turns := len(low) / 4
	if !Available || turns == 0 || width > 48 || offset < 0 || offset > 1<<51 {
		return 0, 0
	}
	high, out = high[:len(low)], out[:(len(low)-1)*stride+1]
	c := [3]uint64{uint64(at), 0, above(at, width)}
	constants := openConstants(width, offset, scale)
	bad = openLane4(&out[0], 4*stride, &low[0], &high[0], &c[0], &constants[0], turns)
	return 4 * turns, bad
}

// Dot is Σ v_i·lower_i and Σ v_i·upper_i, four sums each, over the first
// values, four at a time, and how many: v_i is bits [at, at+width) of
// coefficient i in two words, at below 64, of which high does not count when
// they end in low, and factors are lower + upper·2^32. Widths are at most [DotWidth],
// halves below 2^31, and there are at most [DotRun] values.
func Dot(low, high, factors []uint64, at, width int) (lower, upper [4]uint64, done int) {
	turns := min(len(low), DotRun) / 4
	if !Available || turns == 0 || width > DotWidth {
		return lower, upper, 0
	}
	high, factors = high[:len(low)], factors[:len(low)]
	counts := [5]uint64{uint64(at), 0, above(at, width), 0, 1<<width - 1}
	var out [8]uint64
	dot4(&low[0], &high[0], &factors[0], &counts[0], turns, &out[0])
	return [4]uint64(out[:4]), [4]uint64(out[4:]), 4 * turns
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

// Transform does t's transform in place on residues below q.
func (t *Forward) Transform(p []uint64) {
	p = p[:t.n]
	doubles(&p[0], &t.constants[0], t.n/8)
	for i, layer := range t.layers {
		forwardLayer(&p[0], &layer[0], &t.constants[0], 1<<i, t.n>>(i+1))
	}
	forwardLast(&p[0], &t.last[0], &t.constants[0], t.n/8)
}
