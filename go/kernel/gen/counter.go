package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// counter: 16 blocks of AES in counter mode a turn, two a register.
func counter() {
	TEXT("counter16", NOSPLIT, "func(dst *byte, keys *byte, rounds int, first *uint32, turns int)")
	Doc("counter16 writes 16·turns blocks. first has two blocks with their last word little-endian, what swaps it, the step of two blocks.")
	Pragma("noescape")
	dst, keys, rounds := Load(Param("dst"), GP64()), Load(Param("keys"), GP64()), Load(Param("rounds"), GP64())
	first, turns := Load(Param("first"), GP64()), Load(Param("turns"), GP64())
	next, swap, step, key := YMM(), YMM(), YMM(), YMM()
	VMOVDQU(Mem{Base: first}, next)
	VMOVDQU(Mem{Base: first, Disp: 32}, swap)
	VMOVDQU(Mem{Base: first, Disp: 64}, step)
	last := GP64()
	MOVQ(rounds, last)
	SHLQ(Imm(4), last)
	ADDQ(keys, last)
	Label("turn")
	var b [8]VecVirtual
	VBROADCASTI128(Mem{Base: keys}, key)
	for i := range b {
		b[i] = YMM()
		VPSHUFB(swap, next, b[i])
		VPADDD(step, next, next)
		VPXOR(key, b[i], b[i])
	}
	round := func(r int) {
		VBROADCASTI128(Mem{Base: keys, Disp: 16 * r}, key)
		for i := range b {
			VAESENC(key, b[i], b[i])
		}
	}
	for r := 1; r < 10; r++ {
		round(r)
	}
	CMPQ(rounds, Imm(10))
	JE(LabelRef("done"))
	for r := 10; r < 14; r++ {
		round(r)
	}
	Label("done")
	VBROADCASTI128(Mem{Base: last}, key)
	for i := range b {
		VAESENCLAST(key, b[i], b[i])
		VMOVDQU(b[i], Mem{Base: dst, Disp: 32 * i})
	}
	ADDQ(U32(256), dst)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	VZEROUPPER()
	RET()
}
