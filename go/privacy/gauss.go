package privacy

import (
	"encoding/binary"
	"io"
	"math"
	"math/bits"
)

// Gaussian samples the discrete Gaussian of an integer variance σ² on the
// integers: P(x) ∝ exp(−x²/2σ²), exactly, given uniform bits.
//
// It is rejection sampling in the manner of Canonne, Kamath and Steinke
// (NeurIPS 2020, algorithm 3) with another envelope, which needs one
// comparison a candidate. With t² ≥ 2·ln2·σ², draw U uniform in [0, t), V
// with P(V = v) = 2^-(v+1), and a sign; x = U + tV is proposed with
// probability 2^-(V+1)/t and accepted with probability 2^V·exp(−x²/2σ²), so
// that what is accepted has density exp(−x²/2σ²) up to a factor. That is a
// probability: for x ≥ tv its logarithm is at most v·ln2·(1−v) ≤ 0. Zero with
// a negative sign is refused, as it would count twice.
//
// The acceptance compares a uniform real number, of which 53 bits are drawn,
// with a float64 whose relative error is below 2^-36; in the rare case that
// these do not decide, more bits are drawn and the exponential is computed to
// as many as it takes ([decide]). So the law is exact, not approximate.
//
// Time depends on random bits only, never on an update. How many candidates
// are refused is independent of what is accepted; the exponential of the
// accepted one may take a time that depends on it.
type Gaussian struct {
	variance  uint64
	twice     float64 // 2σ²
	t         uint64
	threshold uint64 // of Lemire's uniform integers below t
	words     words
}

// NewGaussian samples with bits from random. variance is at least 1 and below
// 2^48.
func NewGaussian(variance uint64, random io.Reader) *Gaussian {
	t := uint64(math.Sqrt(1.387 * float64(variance)))
	for t*t*1000 < variance*1387 {
		t++
	}
	return &Gaussian{variance: variance, twice: float64(2 * variance), t: t, threshold: -t % t, words: words{from: random}}
}

// margin covers the errors of x²/2σ² ≤ 600, its exponential, and one another.
const margin = 0x1p-36

// Fill fills dst with samples. The error is that of the reader.
func (g *Gaussian) Fill(dst []int64) error {
	for i := range dst {
		x, ok := g.candidate()
		for !ok && g.words.err == nil {
			x, ok = g.candidate()
		}
		dst[i] = x
	}
	return g.words.err
}

// candidate proposes one value and says whether it is accepted.
func (g *Gaussian) candidate() (int64, bool) {
	high, low := bits.Mul64(g.words.next(), g.t)
	for low < g.threshold && g.words.err == nil {
		high, low = bits.Mul64(g.words.next(), g.t)
	}
	w := g.words.next()
	v := uint64(bits.TrailingZeros16(uint16(w>>1&(1<<10-1) | 1<<10)))
	if v == 10 {
		more := 64
		for more == 64 && g.words.err == nil {
			more = bits.TrailingZeros64(g.words.next())
			v += uint64(more)
		}
	}
	x, negative := high+g.t*v, w&1 == 1
	if x == 0 && negative {
		return 0, false
	}
	accepted := g.accept(x, v, w>>11)
	value := int64(x)
	if negative {
		value = -value
	}
	return value, accepted
}

// accept is true with probability 2^v·exp(−x²/2σ²), given the first 53 bits of
// a uniform number in [0, 1).
func (g *Gaussian) accept(x, v, first uint64) bool {
	if v < 32 {
		exponent := float64(x*x) / g.twice
		p := math.Exp(-exponent) * float64(uint64(1)<<v)
		switch u := float64(first) * 0x1p-53; {
		case exponent > 600:
		case u+0x1p-53 <= p*(1-margin):
			return true
		case u >= p*(1+margin):
			return false
		}
	}
	return decide(x, v, g.variance, first, &g.words)
}

// words are 64-bit words of a reader, in blocks. After an error they are zero.
type words struct {
	from io.Reader
	buf  [1 << 12]byte
	left []byte
	err  error
}

func (w *words) next() uint64 {
	if len(w.left) == 0 {
		if w.err == nil {
			_, w.err = io.ReadFull(w.from, w.buf[:])
		}
		if w.err != nil {
			clear(w.buf[:])
		}
		w.left = w.buf[:]
	}
	v := binary.LittleEndian.Uint64(w.left)
	w.left = w.left[8:]
	return v
}
