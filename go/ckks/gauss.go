package ckks

import (
	"encoding/binary"

	"github.com/cryptflow/cryptflow/go/kernel"
)

// thresholds are T_k = floor(2^63·P(|X| ≤ k)), k = 0…39, for the discrete
// Gaussian of width 4.53 on the integers of magnitude at most 40; T_40 = 2^63
// is never reached. The support ends at 40 = 8.83σ, and the tail that is cut has
// probability 2^-61.4. The test recomputes all of it with big floats.
var thresholds = [40]uint64{
	0x0b45c54386f21de9, 0x214662980fe36ba6, 0x35b9f6ee9618ed61, 0x47d507e99619f80c,
	0x57194ae6077796da, 0x635bfa5e91423422, 0x6cbcbc7b7be37223, 0x7391b81718f4b4cc,
	0x784f45f1a8bdd42a, 0x7b7143834f67370e, 0x7d6a0f40bf136a93, 0x7e98ae2f9fd9378d,
	0x7f45786624da0d7d, 0x7fa36fe4eb562624, 0x7fd41b9231eaebdf, 0x7fec1e2ea309807b,
	0x7ff766356b35a1cf, 0x7ffc72a07f0d764d, 0x7ffe997cbc9b47ba, 0x7fff791c35e57536,
	0x7fffcf929b5e0e8e, 0x7fffef69b1974483, 0x7ffffa949974af21, 0x7ffffe4fa32bc0d1,
	0x7fffff7f801d1fff, 0x7fffffdb94f037a3, 0x7ffffff628963214, 0x7ffffffd76e004b6,
	0x7fffffff608decef, 0x7fffffffdaaa19c5, 0x7ffffffff7aa9b4c, 0x7ffffffffe3a1b7b,
	0x7fffffffffa3f53d, 0x7fffffffffee360b, 0x7ffffffffffcb933, 0x7fffffffffff6cc5,
	0x7fffffffffffe761, 0x7ffffffffffffc15, 0x7fffffffffffff6a, 0x7fffffffffffffec,
}

// largest is the largest magnitude of a sample.
const largest = len(thresholds)

// gaussian fills dst with samples of the discrete Gaussian, one little-endian
// word of the stream each: bit 63 is the sign, the other bits u select
// |x| = #{k : u ≥ T_k}. The whole table is scanned for every sample and
// nothing branches or is looked up by u.
func gaussian(dst []int32, stream []byte) {
	done := kernel.Gauss(dst, stream, &last)
	gaussianPlain(dst[done:], stream[8*done:])
}

// gaussianPlain is the portable form.
func gaussianPlain(dst []int32, stream []byte) {
	t := &last
	for i := range dst {
		w := binary.LittleEndian.Uint64(stream[8*i:])
		u := w & (1<<63 - 1)
		var k uint64
		for j := 0; j < len(t); j += 8 {
			k += (t[j]-u)>>63 + (t[j+1]-u)>>63 + (t[j+2]-u)>>63 + (t[j+3]-u)>>63 +
				(t[j+4]-u)>>63 + (t[j+5]-u)>>63 + (t[j+6]-u)>>63 + (t[j+7]-u)>>63
		}
		sign := -int32(w >> 63)
		dst[i] = int32(k) ^ sign - sign
	}
}

// last are the largest u that do not reach each threshold: T_k − 1.
var last = func() (t [largest]uint64) {
	for k, v := range thresholds {
		t[k] = v - 1
	}
	return t
}()
