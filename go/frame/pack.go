package frame

import (
	"encoding/binary"

	"github.com/cryptflow/cryptflow/go/kernel"
)

// BlockSize is the length of n residues of the given width: n·width bits,
// filled up to a byte.
func BlockSize(n, width int) int { return (n*width + 7) / 8 }

// Pack writes the residues of src, each below 2^width, to the first
// BlockSize(len(src), width) bytes of dst: residue i at bits i·width and up,
// least significant first, the last byte filled up with zero bits.
func Pack(dst []byte, src []uint64, width int) {
	dst = dst[:BlockSize(len(src), width)]
	switch width {
	case 51:
		for len(src) >= 8 {
			pack51((*[51]byte)(dst), (*[8]uint64)(src))
			dst, src = dst[51:], src[8:]
		}
	case 52:
		for len(src) >= 8 {
			pack52((*[52]byte)(dst), (*[8]uint64)(src))
			dst, src = dst[52:], src[8:]
		}
	}
	packAny(dst, src, width)
}

// Unpack is the inverse of [Pack] for len(dst) residues. It reports whether
// src is what Pack writes for residues below q: the right length, every
// residue below q, zero padding. It runs in the same time whatever the
// residues are; dst is overwritten also when it reports false.
func Unpack(dst []uint64, src []byte, width int, q uint64) bool {
	if len(src) != BlockSize(len(dst), width) {
		return false
	}
	done, bad := kernel.Unpack(dst, src, width, q, false)
	dst, src = dst[done:], src[done/8*width:]
	switch width {
	case 51:
		for len(dst) >= 8 {
			bad |= unpack51((*[8]uint64)(dst), (*[51]byte)(src), q)
			dst, src = dst[8:], src[51:]
		}
	case 52:
		for len(dst) >= 8 {
			bad |= unpack52((*[8]uint64)(dst), (*[52]byte)(src), q)
			dst, src = dst[8:], src[52:]
		}
	}
	bad |= unpackAny(dst, src, width, q)
	return bad>>63 == 0
}

// UnpackAdd adds the residues packed in src to sum; it is [Unpack] otherwise.
// Sums are modulo 2^64.
func UnpackAdd(sum []uint64, src []byte, width int, q uint64) bool {
	if len(src) != BlockSize(len(sum), width) {
		return false
	}
	done, bad := kernel.Unpack(sum, src, width, q, true)
	sum, src = sum[done:], src[done/8*width:]
	var run [64]uint64
	ok := true
	for len(sum) > 0 {
		n := min(len(run), len(sum))
		size := BlockSize(n, width)
		ok = Unpack(run[:n], src[:size], width, q) && ok
		for i, v := range run[:n] {
			sum[i] += v
		}
		sum, src = sum[n:], src[size:]
	}
	return ok && bad>>63 == 0
}

// packAny is the plain form for every width up to 57: a byte at a time.
func packAny(dst []byte, src []uint64, width int) {
	var acc uint64
	held := 0
	for _, v := range src {
		acc |= v << held
		held += width
		for held >= 8 {
			dst[0] = byte(acc)
			dst = dst[1:]
			acc >>= 8
			held -= 8
		}
	}
	if held > 0 {
		dst[0] = byte(acc)
	}
}

// unpackAny is the plain form for every width up to 57. Bit 63 of the result
// is set when a residue is not below q or the padding is not zero.
func unpackAny(dst []uint64, src []byte, width int, q uint64) (bad uint64) {
	mask := uint64(1)<<width - 1
	var acc uint64
	held := 0
	for i := range dst {
		for held < width {
			acc |= uint64(src[0]) << held
			src = src[1:]
			held += 8
		}
		v := acc & mask
		acc >>= width
		held -= width
		bad |= q - 1 - v
		dst[i] = v
	}
	return bad | -acc
}

func pack51(d *[51]byte, s *[8]uint64) {
	le := binary.LittleEndian
	le.PutUint64(d[0:], s[0]|s[1]<<51)
	le.PutUint64(d[8:], s[1]>>13|s[2]<<38)
	le.PutUint64(d[16:], s[2]>>26|s[3]<<25)
	le.PutUint64(d[24:], s[3]>>39|s[4]<<12|s[5]<<63)
	le.PutUint64(d[32:], s[5]>>1|s[6]<<50)
	le.PutUint64(d[43:], s[6]>>38|s[7]<<13)
	le.PutUint32(d[40:], uint32(s[6]>>14))
}

func pack52(d *[52]byte, s *[8]uint64) {
	le := binary.LittleEndian
	le.PutUint64(d[0:], s[0]|s[1]<<52)
	le.PutUint64(d[8:], s[1]>>12|s[2]<<40)
	le.PutUint64(d[16:], s[2]>>24|s[3]<<28)
	le.PutUint64(d[24:], s[3]>>36|s[4]<<16)
	le.PutUint64(d[32:], s[4]>>48|s[5]<<4|s[6]<<56)
	le.PutUint64(d[40:], s[6]>>8|s[7]<<44)
	le.PutUint32(d[48:], uint32(s[7]>>20))
}

func unpack51(d *[8]uint64, s *[51]byte, q uint64) uint64 {
	const mask = 1<<51 - 1
	le := binary.LittleEndian
	a := le.Uint64(s[0:]) & mask
	b := le.Uint64(s[6:]) >> 3 & mask
	c := le.Uint64(s[12:]) >> 6 & mask
	e := le.Uint64(s[19:]) >> 1 & mask
	f := le.Uint64(s[25:]) >> 4 & mask
	g := le.Uint64(s[31:]) >> 7 & mask
	h := le.Uint64(s[38:]) >> 2 & mask
	k := le.Uint64(s[43:]) >> 13
	d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7] = a, b, c, e, f, g, h, k
	q--
	return (q - a) | (q - b) | (q - c) | (q - e) | (q - f) | (q - g) | (q - h) | (q - k)
}

func unpack52(d *[8]uint64, s *[52]byte, q uint64) uint64 {
	const mask = 1<<52 - 1
	le := binary.LittleEndian
	a := le.Uint64(s[0:]) & mask
	b := le.Uint64(s[6:]) >> 4 & mask
	c := le.Uint64(s[13:]) & mask
	e := le.Uint64(s[19:]) >> 4 & mask
	f := le.Uint64(s[26:]) & mask
	g := le.Uint64(s[32:]) >> 4 & mask
	h := le.Uint64(s[39:]) & mask
	k := le.Uint64(s[44:]) >> 12
	d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7] = a, b, c, e, f, g, h, k
	q--
	return (q - a) | (q - b) | (q - c) | (q - e) | (q - f) | (q - g) | (q - h) | (q - k)
}
