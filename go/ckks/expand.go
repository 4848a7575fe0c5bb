package ckks

import (
	"encoding/binary"
	"math/bits"

	"github.com/cryptflow/cryptflow/go/params"
)

// expander yields the public polynomials a of one key base: AES-128, keyed
// with a hash of it. Everybody derives the same polynomials; nobody chooses
// them beyond grinding the hash.
type expander struct {
	stream *keystream
	buf    []byte
}

func newExpander(keyBase *[32]byte, n int) (*expander, error) {
	key := derive(tagA, keyBase[:])
	s, err := newKeystream(key[:16])
	if err != nil {
		return nil, err
	}
	return &expander{stream: s, buf: make([]byte, 8*n+tail)}, nil
}

// fork is another expander of the same polynomials.
func (x *expander) fork() *expander {
	return &expander{stream: x.stream.fork(), buf: make([]byte, len(x.buf))}
}

// expand writes a_{chunk,j} to dst, in the NTT domain: little-endian 64-bit
// words masked to width bits; words not below q are skipped. a is public, so
// the branch on a skipped word reveals nothing.
func (x *expander) expand(dst []uint64, chunk uint32, j int, q uint64, width int) {
	words := x.stream.fill(x.buf, 8*len(dst), chunk, uint32(j), purposeA)
	mask := uint64(1)<<width - 1
	bad := uint64(0)
	for i := range dst {
		v := binary.LittleEndian.Uint64(words[8*i:]) & mask
		bad |= q - 1 - v
		dst[i] = v
	}
	if bad>>63 != 0 {
		x.reject(dst, chunk, j, q, mask)
	}
}

// multiply writes a_{chunk,j}·s to dst: it is expand and [field.product] in
// one pass.
func (x *expander) multiply(dst []uint64, by *factor, chunk uint32, j int, f *field, width int) {
	words := x.stream.fill(x.buf, 8*len(dst), chunk, uint32(j), purposeA)
	mask := uint64(1)<<width - 1
	s := by.montgomery
	if by.fast != nil {
		if !by.fast.Multiply(dst, words, mask) {
			x.reject(dst, chunk, j, f.q, mask)
			f.product(dst, dst, s)
		}
		return
	}
	q, qInv := f.q, f.qInv
	bad := uint64(0)
	words, s = words[:8*len(dst)], s[:len(dst)]
	for i, y := range s {
		v := binary.LittleEndian.Uint64(words[8*i:]) & mask
		bad |= q - 1 - v
		hi, lo := bits.Mul64(v, y)
		t, _ := bits.Mul64(lo*qInv, q)
		dst[i] = below(hi-t+q, q)
	}
	if bad>>63 != 0 {
		x.reject(dst, chunk, j, q, mask)
		f.product(dst, dst, s)
	}
}

// reject does what expand says for any share of skipped words, with a stream
// twice as long at each attempt.
func (x *expander) reject(dst []uint64, chunk uint32, j int, q, mask uint64) {
	for words := len(dst) + 64; ; words *= 2 {
		stream := x.stream.fill(make([]byte, 8*words+tail), 8*words, chunk, uint32(j), purposeA)
		filled := 0
		for i := 0; i < words && filled < len(dst); i++ {
			if v := binary.LittleEndian.Uint64(stream[8*i:]) & mask; v < q {
				dst[filled] = v
				filled++
			}
		}
		if filled == len(dst) {
			return
		}
	}
}

// Public returns the public polynomials a_{chunk,j} of a key base, prime by
// prime, in the NTT domain: what the vectors in testdata show and whoever
// checks this package independently compares with.
func Public(p *params.Preset, keyBase [32]byte, chunk uint32) ([][]uint64, error) {
	x, err := newExpander(&keyBase, p.N())
	if err != nil {
		return nil, err
	}
	a := make([][]uint64, len(p.Primes))
	for j, q := range p.Primes {
		a[j] = make([]uint64, p.N())
		x.expand(a[j], chunk, j, q, p.Width)
	}
	return a, nil
}
