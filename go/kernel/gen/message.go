package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// message: c + Δ·m + e modulo q, for m of two words. Δ·m is taken apart into
// limbs of the width of q, of which the higher is multiplied by 2^width.
func message() {
	TEXT("message8", NOSPLIT, "func(c *uint64, low *uint64, high *uint64, e *int32, q *float64, counts *uint64, turns int)")
	Doc("message8 adds 8·turns messages of two words and errors to residues. counts has log Δ, width − log Δ, 64 less that, each in 16 bytes, and the mask.")
	Pragma("noescape")
	c, low, high := Load(Param("c"), GP64()), Load(Param("low"), GP64()), Load(Param("high"), GP64())
	e, q := Load(Param("e"), GP64()), Load(Param("q"), GP64())
	counts, turns := Load(Param("counts"), GP64()), Load(Param("turns"), GP64())
	m := loadModulus(q)
	magic, w, wq, zero, mask := YMM(), YMM(), YMM(), YMM(), YMM()
	VBROADCASTSD(Mem{Base: q, Disp: 16}, magic)
	VBROADCASTSD(Mem{Base: q, Disp: 24}, w)
	VBROADCASTSD(Mem{Base: q, Disp: 32}, wq)
	VPBROADCASTQ(Mem{Base: counts, Disp: 48}, mask)
	VXORPD(zero, zero, zero)
	Label("turn")
	for i := range 2 {
		x, y, l := YMM(), YMM(), YMM()
		VMOVDQU(Mem{Base: low, Disp: 32 * i}, l)
		VMOVDQU(Mem{Base: high, Disp: 32 * i}, y)
		VPSRLQ(Mem{Base: counts, Disp: 16}, l, x)
		VPSLLQ(Mem{Base: counts, Disp: 32}, y, y)
		VPSLLQ(Mem{Base: counts}, l, l)
		VPOR(y, x, x)
		VPAND(mask, x, x)
		VPAND(mask, l, l)
		double(magic, x)
		m.product(x, w, wq)
		double(magic, l)
		VADDPD(l, x, x)
		VMOVDQU(Mem{Base: c, Disp: 32 * i}, y)
		double(magic, y)
		VADDPD(y, x, x)
		VCVTDQ2PD(Mem{Base: e, Disp: 16 * i}, y)
		VADDPD(y, x, x)
		m.residue(magic, zero, x)
		VMOVUPD(x, Mem{Base: c, Disp: 32 * i})
	}
	for _, p := range []Register{c, low, high} {
		ADDQ(Imm(64), p)
	}
	ADDQ(Imm(32), e)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	VZEROUPPER()
	RET()
}

// What join reads, each in 32 bytes, after its three counts of 16.
const (
	joinC         = 48 + 32*iota // 2^51 − q0
	joinHalf                     // Δ/2, and 2^53 so that nothing is negative
	joinMask                     // 2^51 − 1
	joinFour                     // 2^53 / 2^51
	joinLow                      // Q modulo 2^51
	joinHigh                     // Q / 2^51
	joinDelta                    // Δ − 1
	joinDeltaHalf                // Δ/2
	joinBound
)

// join: Garner's second digit d = (b − a)·w modulo q1, then x = a + d·q0 + Δ/2
// modulo Q = q0·q1, in limbs of 51 bits, and x/Δ in two words. d·q0 is
// d·2^51 − d·c with c below 2^21, so that the halves of d times c fit 32-bit
// multiplications.
func join() {
	TEXT("join4", NOSPLIT, "func(low *uint64, high *uint64, a *uint64, b *uint64, q *float64, constants *uint64, turns int) uint64")
	Doc("join4 writes the words of 4·turns plaintexts of two residues. Bit 63 of the result is set when a remainder is beyond the bound.")
	Pragma("noescape")
	low, high := Load(Param("low"), GP64()), Load(Param("high"), GP64())
	a, b, q := Load(Param("a"), GP64()), Load(Param("b"), GP64()), Load(Param("q"), GP64())
	constants, turns := Load(Param("constants"), GP64()), Load(Param("turns"), GP64())
	at := func(disp int) Mem { return Mem{Base: constants, Disp: disp} }
	m := loadModulus(q)
	magic, w, wq, zero, bad := YMM(), YMM(), YMM(), YMM(), YMM()
	VBROADCASTSD(Mem{Base: q, Disp: 16}, magic)
	VBROADCASTSD(Mem{Base: q, Disp: 24}, w)
	VBROADCASTSD(Mem{Base: q, Disp: 32}, wq)
	VXORPD(zero, zero, zero)
	VPXOR(bad, bad, bad)
	Label("turn")
	d, x0, t, u := YMM(), YMM(), YMM(), YMM()
	VMOVDQU(Mem{Base: b}, d)
	VMOVDQU(Mem{Base: a}, x0)
	VMOVDQA(x0, t)
	double(magic, d)
	double(magic, t)
	VSUBPD(t, d, d)
	m.product(d, w, wq)
	m.residue(magic, zero, d)
	// x0 + x1·2^51 = a + Δ/2 + d·2^51 − (upper half of d)·c·2^26 − (lower half)·c
	VPADDQ(at(joinHalf), x0, x0)
	VPSLLQ(Imm(38), d, t)
	VPSRLQ(Imm(38), t, t) // the lower 26 bits
	VPMULUDQ(at(joinC), t, t)
	VPSUBQ(t, x0, x0)
	VPSRLQ(Imm(26), d, t)
	VPMULUDQ(at(joinC), t, t)
	VPSRLQ(Imm(25), t, u)
	VPSUBQ(u, d, d)
	VPSLLQ(Imm(25), u, u)
	VPSUBQ(u, t, t)
	VPSLLQ(Imm(26), t, t)
	VPSUBQ(t, x0, x0)
	VPSRLQ(Imm(51), x0, t)
	VPADDQ(t, d, d)
	VPSUBQ(at(joinFour), d, d)
	VPAND(at(joinMask), x0, x0)
	// less Q, unless that is negative
	y0 := YMM()
	VPSUBQ(at(joinLow), x0, y0)
	VPSRLQ(Imm(63), y0, t)
	VPAND(at(joinMask), y0, y0)
	VPSUBQ(at(joinHigh), d, u)
	VPSUBQ(t, u, u)
	VBLENDVPD(u, x0, y0, x0)
	VBLENDVPD(u, d, u, d)
	// the remainder
	VPAND(at(joinDelta), x0, t)
	VPSUBQ(at(joinDeltaHalf), t, t)
	VPCMPGTQ(t, zero, u)
	VPXOR(u, t, t)
	VPSUBQ(u, t, t)
	VMOVDQU(at(joinBound), u)
	VPSUBQ(t, u, u)
	VPOR(u, bad, bad)
	// the quotient
	VPSRLQ(at(0), x0, x0)
	VPSLLQ(at(16), d, t)
	VPOR(t, x0, x0)
	VPSRLQ(at(32), d, d)
	VMOVDQU(x0, Mem{Base: low})
	VMOVDQU(d, Mem{Base: high})
	for _, p := range []Register{low, high, a, b} {
		ADDQ(Imm(32), p)
	}
	DECQ(turns)
	JNZ(LabelRef("turn"))
	storeSign(bad)
	VZEROUPPER()
	RET()
}
