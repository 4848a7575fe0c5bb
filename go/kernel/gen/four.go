package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// limbs: c + Σ l_k·2^(k·width) + e modulo q, for k from 0 to 3, by Horner's
// rule with 2^width modulo q.
func limbs() {
	TEXT("limbs8", NOSPLIT, "func(c *uint64, l0 *uint64, l1 *uint64, l2 *uint64, l3 *uint64, e *int32, q *float64, turns int)")
	Doc("limbs8 adds 8·turns messages of four limbs and errors to residues.")
	Pragma("noescape")
	c := Load(Param("c"), GP64())
	var l [4]Register
	for k, name := range []string{"l0", "l1", "l2", "l3"} {
		l[k] = Load(Param(name), GP64())
	}
	e, q, turns := Load(Param("e"), GP64()), Load(Param("q"), GP64()), Load(Param("turns"), GP64())
	m := loadModulus(q)
	magic, w, wq, zero := YMM(), YMM(), YMM(), YMM()
	VBROADCASTSD(Mem{Base: q, Disp: 16}, magic)
	VBROADCASTSD(Mem{Base: q, Disp: 24}, w)
	VBROADCASTSD(Mem{Base: q, Disp: 32}, wq)
	VXORPD(zero, zero, zero)
	Label("turn")
	for i := range 2 {
		x, y := YMM(), YMM()
		VMOVDQU(Mem{Base: l[3], Disp: 32 * i}, x)
		double(magic, x)
		for k := 2; k >= 0; k-- {
			m.product(x, w, wq)
			VMOVDQU(Mem{Base: l[k], Disp: 32 * i}, y)
			double(magic, y)
			VADDPD(y, x, x)
		}
		VMOVDQU(Mem{Base: c, Disp: 32 * i}, y)
		double(magic, y)
		VADDPD(y, x, x)
		VCVTDQ2PD(Mem{Base: e, Disp: 16 * i}, y)
		VADDPD(y, x, x)
		m.residue(magic, zero, x)
		VMOVUPD(x, Mem{Base: c, Disp: 32 * i})
	}
	for _, p := range append(l[:], c) {
		ADDQ(Imm(64), p)
	}
	ADDQ(Imm(32), e)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	VZEROUPPER()
	RET()
}

// digits: Garner's digits of four residues: d_j = (…((r_j − d_0)·w_j0 −
// d_1)·w_j1 …)·w_j(j−1) modulo q_j.
func digits() {
	TEXT("digits4", NOSPLIT, "func(r0 *uint64, r1 *uint64, r2 *uint64, r3 *uint64, constants *float64, turns int)")
	Doc("digits4 overwrites 4·turns residues of each of four primes, below twice the prime, with mixed radix digits. constants has 2^52, then for every prime q, 1/q, and w, w/q for every prime before it.")
	Pragma("noescape")
	var r [4]Register
	for k, name := range []string{"r0", "r1", "r2", "r3"} {
		r[k] = Load(Param(name), GP64())
	}
	constants, turns := Load(Param("constants"), GP64()), Load(Param("turns"), GP64())
	magic, zero := YMM(), YMM()
	VBROADCASTSD(Mem{Base: constants}, magic)
	VXORPD(zero, zero, zero)
	Label("turn")
	at := 8
	next := func() VecVirtual {
		v := YMM()
		VBROADCASTSD(Mem{Base: constants, Disp: at}, v)
		at += 8
		return v
	}
	var d [4]VecVirtual
	for j := range d {
		m := modulus{next(), next()}
		d[j] = YMM()
		VMOVDQU(Mem{Base: r[j]}, d[j])
		double(magic, d[j])
		for l := range j {
			VSUBPD(d[l], d[j], d[j])
			w, wq := next(), next()
			m.product(d[j], w, wq)
		}
		m.positive(zero, d[j])
		s := YMM()
		VADDPD(magic, d[j], s) // later digits need d as a double
		VXORPD(magic, s, s)
		VMOVUPD(s, Mem{Base: r[j]})
	}
	for _, p := range r {
		ADDQ(Imm(32), p)
	}
	DECQ(turns)
	JNZ(LabelRef("turn"))
	VZEROUPPER()
	RET()
}
