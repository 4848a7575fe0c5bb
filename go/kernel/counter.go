package kernel

import "encoding/binary"

// blockSize is that of AES.
const blockSize = 16

// Counter is AES in counter mode, on processors with vector AES instructions.
// Those take the same time for all operands. It gives the same bytes as the
// standard library's; it allocates nothing and
// authenticates nothing. One goroutine at a time uses a Counter.
type Counter struct {
	keys   [15 * blockSize]byte
	rounds int
	last   [256]byte // a turn that is not used whole
}

// NewCounter expands a key of 16 or 32 bytes. It returns nil for other keys,
// and where the processor lacks the instructions.
func NewCounter(key []byte) *Counter {
	if !HasCounter || len(key) != 16 && len(key) != 32 {
		return nil
	}
	c := &Counter{rounds: len(key)/4 + 6}
	expand(c.keys[:blockSize*(c.rounds+1)], key)
	return c
}

// Fill writes blocks AES(nonce ‖ be32(i+2)), i = 0, 1, …, of which dst has the
// first bytes. dst is shorter than 64 GiB.
func (c *Counter) Fill(dst []byte, nonce *[12]byte) {
	whole := len(dst) &^ (len(c.last) - 1)
	c.turns(dst[:whole], nonce, 2)
	if whole < len(dst) {
		c.turns(c.last[:], nonce, 2+uint32(whole/blockSize))
		copy(dst[whole:], c.last[:])
	}
}

// expand is the key schedule of FIPS 197, §5.2, without tables.
func expand(keys, key []byte) {
	n := copy(keys, key)
	power := byte(1)
	for at := n; at < len(keys); at += 4 {
		t := [4]byte(keys[at-4:])
		switch {
		case at%n == 0:
			t = [4]byte{substitute(t[1]) ^ power, substitute(t[2]), substitute(t[3]), substitute(t[0])}
			power = double(power)
		case n == 32 && at%n == 16:
			for i, b := range t {
				t[i] = substitute(b)
			}
		}
		binary.LittleEndian.PutUint32(keys[at:], binary.LittleEndian.Uint32(t[:])^binary.LittleEndian.Uint32(keys[at-n:]))
	}
}

// substitute is the S-box of AES, computed: the inverse in GF(2^8), x^254, and
// an affine map. It neither branches nor looks anything up by x.
func substitute(x byte) byte {
	y := x
	for range 6 { // x^(2^k − 1), k = 1…7
		y = times(times(y, y), x)
	}
	y = times(y, y)
	r := func(k int) byte { return y<<k | y>>(8-k) }
	return y ^ r(1) ^ r(2) ^ r(3) ^ r(4) ^ 0x63
}

// times is the product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
func times(a, b byte) (p byte) {
	for range 8 {
		p ^= a & -(b & 1)
		a, b = double(a), b>>1
	}
	return p
}

// double is the product with x.
func double(a byte) byte { return a<<1 ^ 0x1b&-(a>>7) }
