package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// spread overwrites u, v with u + v·w and u − v·w.
func (m modulus) spread(u, v VecVirtual, w, wq VecVirtual) {
	d := YMM()
	m.product(v, w, wq)
	VSUBPD(v, u, d)
	VADDPD(v, u, u)
	m.reduce(u)
	m.reduce(d)
	VMOVAPD(d, v)
}

// doubles: integers to doubles.
func doubles() {
	TEXT("doubles", NOSPLIT, "func(p *uint64, q *float64, turns int)")
	Doc("doubles turns 8·turns residues into doubles.")
	Pragma("noescape")
	p, q, turns := Load(Param("p"), GP64()), Load(Param("q"), GP64()), Load(Param("turns"), GP64())
	magic := YMM()
	VBROADCASTSD(Mem{Base: q, Disp: 16}, magic)
	Label("turn")
	for i := range 2 {
		x := YMM()
		VMOVUPD(Mem{Base: p, Disp: 32 * i}, x)
		double(magic, x)
		VMOVUPD(x, Mem{Base: p, Disp: 32 * i})
	}
	ADDQ(Imm(64), p)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	VZEROUPPER()
	RET()
}

// forwardLayer: one layer of distance t ≥ 8 values.
func forwardLayer() {
	TEXT("forwardLayer", NOSPLIT, "func(p *uint64, table *float64, q *float64, groups int, t int)")
	Doc("forwardLayer does one layer of distance t, a multiple of 8, over all groups of 2t values.")
	Pragma("noescape")
	layerOf(modulus.spread)
}

// forwardLast: the layers of distance 4, 2 and 1, eight values in two
// registers, and doubles to residues.
func forwardLast() {
	TEXT("forwardLast", NOSPLIT, "func(p *uint64, table *float64, q *float64, blocks int)")
	Doc("forwardLast does the last three layers of 8·blocks values and turns them into residues.")
	Pragma("noescape")
	p, table := Load(Param("p"), GP64()), Load(Param("table"), GP64())
	q, blocks := Load(Param("q"), GP64()), Load(Param("blocks"), GP64())
	m := loadModulus(q)
	magic, zero := YMM(), YMM()
	VBROADCASTSD(Mem{Base: q, Disp: 16}, magic)
	VXORPD(zero, zero, zero)
	Label("block")
	x, y, w, wq := YMM(), YMM(), YMM(), YMM()
	VMOVUPD(Mem{Base: p}, x)           // 0 1 2 3
	VMOVUPD(Mem{Base: p, Disp: 32}, y) // 4 5 6 7
	VBROADCASTSD(Mem{Base: table}, w)
	VBROADCASTSD(Mem{Base: table, Disp: 8}, wq)
	m.spread(x, y, w, wq)
	at := 16
	twiddles := func() {
		VMOVUPD(Mem{Base: table, Disp: at}, w)
		VMOVUPD(Mem{Base: table, Disp: at + 32}, wq)
		at += 64
	}
	a, b := YMM(), YMM()
	VPERM2F128(Imm(0x20), y, x, a) // 0 1 4 5
	VPERM2F128(Imm(0x31), y, x, b) // 2 3 6 7
	twiddles()
	m.spread(a, b, w, wq)
	u, v := YMM(), YMM()
	VUNPCKLPD(b, a, u) // 0 2 4 6
	VUNPCKHPD(b, a, v) // 1 3 5 7
	twiddles()
	m.spread(u, v, w, wq)
	m.residue(magic, zero, u)
	m.residue(magic, zero, v)
	c, d, e, f := YMM(), YMM(), YMM(), YMM()
	VUNPCKLPD(v, u, c)             // 0 1 4 5
	VUNPCKHPD(v, u, d)             // 2 3 6 7
	VPERM2F128(Imm(0x20), d, c, e) // 0 1 2 3
	VPERM2F128(Imm(0x31), d, c, f) // 4 5 6 7
	VMOVUPD(e, Mem{Base: p})
	VMOVUPD(f, Mem{Base: p, Disp: 32})
	ADDQ(Imm(64), p)
	ADDQ(U32(at), table)
	DECQ(blocks)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}
