package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dot: one lane of coefficients times factors of 31 and 30 bits.
func dot() {
	TEXT("dot4", NOSPLIT, "func(low *uint64, high *uint64, factors *uint64, counts *uint64, turns int, out *uint64)")
	Doc("dot4 adds to out, four words each, the products of one lane of 4·turns coefficients and the lower and upper halves of factors. counts has two shifts, each in 16 bytes, and the mask.")
	Pragma("noescape")
	low, high := Load(Param("low"), GP64()), Load(Param("high"), GP64())
	factors, counts := Load(Param("factors"), GP64()), Load(Param("counts"), GP64())
	turns, out := Load(Param("turns"), GP64()), Load(Param("out"), GP64())
	down, up, mask := XMM(), XMM(), YMM()
	for i, r := range []VecVirtual{down, up} {
		VMOVDQU(Mem{Base: counts, Disp: 16 * i}, r)
	}
	VPBROADCASTQ(Mem{Base: counts, Disp: 32}, mask)
	sums := [2]VecVirtual{YMM(), YMM()}
	for i, s := range sums {
		VMOVDQU(Mem{Base: out, Disp: 32 * i}, s)
	}
	Label("turn")
	v, h, t, f := YMM(), YMM(), YMM(), YMM()
	VMOVDQU(Mem{Base: low}, v)
	VMOVDQU(Mem{Base: high}, h)
	VMOVDQU(Mem{Base: factors}, f)
	VPSRLQ(down, v, v)
	VPSLLQ(up, h, h)
	VPOR(h, v, v)
	VPAND(mask, v, v)
	VPMULUDQ(f, v, t)
	VPADDQ(t, sums[0], sums[0])
	VPSRLQ(Imm(32), f, f)
	VPMULUDQ(f, v, t)
	VPADDQ(t, sums[1], sums[1])
	for _, p := range []Register{low, high, factors} {
		ADDQ(Imm(32), p)
	}
	DECQ(turns)
	JNZ(LabelRef("turn"))
	for i, s := range sums {
		VMOVDQU(s, Mem{Base: out, Disp: 32 * i})
	}
	VZEROUPPER()
	RET()
}
