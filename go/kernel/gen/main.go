// Command gen writes the AVX2 kernels of package kernel: go generate runs it.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("amd64")
	gauss()
	stochastic()
	multiply()
	message()
	limbs()
	join()
	digits()
	first()
	layer()
	last()
	doubles()
	forwardLayer()
	forwardLast()
	counter()
	for _, width := range []int{51, 52} {
		unpack(width, false)
		unpack(width, true)
	}
	magnitudes()
	fill()
	open()
	openLane()
	dot()
	Generate()
}

// gauss: 8 samples a turn; every threshold is compared with every word.
func gauss() {
	TEXT("gauss8", NOSPLIT, "func(dst *int32, stream *byte, last *uint64, turns int)")
	Doc("gauss8 fills 8·turns samples from as many words of the stream.")
	Pragma("noescape")
	dst, src := Load(Param("dst"), GP64()), Load(Param("stream"), GP64())
	table, turns := Load(Param("last"), GP64()), Load(Param("turns"), GP64())
	ones, mask := YMM(), YMM()
	VPCMPEQQ(ones, ones, ones)
	VPSRLQ(Imm(1), ones, mask)
	zero := YMM()
	VPXOR(zero, zero, zero)
	Label("turn")
	var w, u, k [2]VecVirtual
	for i := range w {
		w[i], u[i], k[i] = YMM(), YMM(), YMM()
		VMOVDQU(Mem{Base: src, Disp: 32 * i}, w[i])
		VPAND(mask, w[i], u[i])
		VPXOR(k[i], k[i], k[i])
	}
	t, c := YMM(), [2]VecVirtual{YMM(), YMM()}
	for j := range 40 {
		VPBROADCASTQ(Mem{Base: table, Disp: 8 * j}, t)
		for i := range w {
			VPCMPGTQ(t, u[i], c[i]) // −1 where u > T−1
			VPSUBQ(c[i], k[i], k[i])
		}
	}
	for i := range w {
		sign := YMM()
		VPCMPGTQ(w[i], zero, sign) // −1 where bit 63 is set
		VPXOR(sign, k[i], k[i])
		VPSUBQ(sign, k[i], k[i])
		// The low halves of four 64-bit integers.
		VPSHUFD(Imm(0x08), k[i], k[i])
		VPERMQ(Imm(0x08), k[i], k[i])
		VMOVDQU(k[i].AsX(), Mem{Base: dst, Disp: 16 * i})
	}
	ADDQ(Imm(64), src)
	ADDQ(Imm(32), dst)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	VZEROUPPER()
	RET()
}

// stochastic: 8 values a turn, in two halves of four 64-bit integers.
func stochastic() {
	TEXT("stochastic8", NOSPLIT, "func(steps *uint32, values *float32, rho *byte, constants *uint64, turns int)")
	Doc("stochastic8 rounds 8·turns values.")
	Pragma("noescape")
	steps, values := Load(Param("steps"), GP64()), Load(Param("values"), GP64())
	rho, constants := Load(Param("rho"), GP64()), Load(Param("constants"), GP64())
	turns := Load(Param("turns"), GP64())
	scale, bound, magic, offset := YMM(), YMM(), YMM(), YMM()
	for i, r := range []VecVirtual{scale, bound, magic, offset} {
		VPBROADCASTQ(Mem{Base: constants, Disp: 8 * i}, r)
	}
	beyond, magnitude := XMM(), XMM()
	VPBROADCASTD(Mem{Base: constants, Disp: 32}, beyond)
	VPCMPEQD(magnitude, magnitude, magnitude)
	VPSRLD(Imm(1), magnitude, magnitude)
	Label("turn")
	var half [2]VecVirtual
	for i := range half {
		x, a, sign32 := XMM(), XMM(), XMM()
		y, sign, r := YMM(), YMM(), YMM()
		VMOVDQU(Mem{Base: values, Disp: 16 * i}, x)
		VPAND(magnitude, x, a)
		VPMINUD(beyond, a, a)
		VCVTPS2PD(a, y)
		VMULPD(scale, y, y)
		VROUNDPD(Imm(11), y, y) // towards zero
		VMINPD(bound, y, y)
		VADDPD(magic, y, y)
		VPXOR(magic, y, y)
		VPSRAD(Imm(31), x, sign32)
		VPMOVSXDQ(sign32, sign)
		VPXOR(sign, y, y)
		VPSUBQ(sign, y, y)
		VPMOVZXDQ(Mem{Base: rho, Disp: 16 * i}, r)
		VPADDQ(r, y, y)
		VPADDQ(offset, y, y)
		half[i] = y
	}
	// The upper halves of eight 64-bit integers, in order.
	VSHUFPS(Imm(0xdd), half[1], half[0], half[0])
	VPERMQ(Imm(0xd8), half[0], half[0])
	VMOVDQU(half[0], Mem{Base: steps})
	ADDQ(Imm(32), values)
	ADDQ(Imm(32), rho)
	ADDQ(Imm(32), steps)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	VZEROUPPER()
	RET()
}

// modulus holds q and 1/q in every lane.
type modulus struct{ q, inverse VecVirtual }

func loadModulus(p Register) modulus {
	m := modulus{YMM(), YMM()}
	VBROADCASTSD(Mem{Base: p}, m.q)
	VBROADCASTSD(Mem{Base: p, Disp: 8}, m.inverse)
	return m
}

// reduce brings x within q/2 of zero.
func (m modulus) reduce(x VecVirtual) {
	c := YMM()
	VMULPD(m.inverse, x, c)
	VROUNDPD(Imm(8), c, c)
	VFNMADD231PD(m.q, c, x)
}

// product overwrites d with d·w modulo q, given w/q.
func (m modulus) product(d VecVirtual, w, wq Op) {
	h, c := YMM(), YMM()
	VMULPD(w, d, h)
	VMULPD(wq, d, c)
	VROUNDPD(Imm(8), c, c)
	VFMSUB213PD(h, w, d)
	VFNMADD231PD(m.q, c, h)
	VADDPD(h, d, d)
}

// butterfly overwrites u, v with u+v and (u−v)·w.
func (m modulus) butterfly(u, v VecVirtual, w, wq VecVirtual) {
	d := YMM()
	VSUBPD(v, u, d)
	VADDPD(v, u, u)
	m.reduce(u)
	m.product(d, w, wq)
	VMOVAPD(d, v)
}

// multiply: words of a stream, masked, times fixed factors modulo q.
func multiply() {
	TEXT("multiply8", NOSPLIT, "func(dst *uint64, words *byte, factors *float64, q *float64, mask uint64, turns int) uint64")
	Doc("multiply8 multiplies 8·turns masked words. Bit 63 of the result is set when one is not below q.")
	Pragma("noescape")
	dst, words := Load(Param("dst"), GP64()), Load(Param("words"), GP64())
	factors, q := Load(Param("factors"), GP64()), Load(Param("q"), GP64())
	m := loadModulus(q)
	magic, mask, bad, largest, zero := YMM(), YMM(), YMM(), YMM(), YMM()
	VBROADCASTSD(Mem{Base: q, Disp: 16}, magic)
	VBROADCASTSD(Mem{Base: q, Disp: 40}, largest) // q − 1, an integer
	maskAt, err := Param("mask").Resolve()
	if err != nil {
		panic(err)
	}
	VPBROADCASTQ(maskAt.Addr, mask)
	turns := Load(Param("turns"), GP64())
	VPXOR(bad, bad, bad)
	VXORPD(zero, zero, zero)
	Label("turn")
	for i := range 2 {
		x, c, s, w, wq := YMM(), YMM(), YMM(), YMM(), YMM()
		VMOVDQU(Mem{Base: words, Disp: 32 * i}, x)
		VPAND(mask, x, x)
		VPSUBQ(x, largest, c)
		VPOR(c, bad, bad)
		VPOR(magic, x, x)
		VSUBPD(magic, x, x)
		VMOVUPD(Mem{Base: factors, Disp: 64 * i}, w)
		VMOVUPD(Mem{Base: factors, Disp: 64*i + 32}, wq)
		m.product(x, w, wq)
		m.reduce(x)
		VCMPPD(Imm(1), zero, x, s)
		VANDPD(m.q, s, s)
		VADDPD(s, x, x)
		VADDPD(magic, x, x)
		VXORPD(magic, x, x)
		VMOVUPD(x, Mem{Base: dst, Disp: 32 * i})
	}
	ADDQ(Imm(64), words)
	ADDQ(Imm(64), dst)
	ADDQ(Imm(128), factors)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	storeSign(bad)
	VZEROUPPER()
	RET()
}

// double turns integers below 2^52 into doubles.
func double(magic, x VecVirtual) {
	VPOR(magic, x, x)
	VSUBPD(magic, x, x)
}

// positive brings doubles within 2q of zero to 0 … q−1.
func (m modulus) positive(zero, x VecVirtual) {
	m.reduce(x)
	s := YMM()
	VCMPPD(Imm(1), zero, x, s) // x < 0
	VANDPD(m.q, s, s)
	VADDPD(s, x, x)
}

// residue turns doubles within 2q of zero into residues.
func (m modulus) residue(magic, zero, x VecVirtual) {
	m.positive(zero, x)
	VADDPD(magic, x, x)
	VXORPD(magic, x, x)
}

// first: integers to doubles and the layers of distance 1, 2 and 4, eight
// values in two registers.
func first() {
	TEXT("inverseFirst", NOSPLIT, "func(p *uint64, table *float64, q *float64, blocks int)")
	Doc("inverseFirst turns 8·blocks residues into doubles and does the first three layers.")
	Pragma("noescape")
	p, table := Load(Param("p"), GP64()), Load(Param("table"), GP64())
	q, blocks := Load(Param("q"), GP64()), Load(Param("blocks"), GP64())
	m := loadModulus(q)
	magic := YMM()
	VBROADCASTSD(Mem{Base: q, Disp: 16}, magic)
	Label("block")
	x, y := YMM(), YMM()
	for i, r := range []VecVirtual{x, y} {
		VMOVUPD(Mem{Base: p, Disp: 32 * i}, r)
		VORPD(magic, r, r)
		VSUBPD(magic, r, r)
	}
	w, wq := YMM(), YMM()
	at := 0
	twiddles := func() {
		VMOVUPD(Mem{Base: table, Disp: at}, w)
		VMOVUPD(Mem{Base: table, Disp: at + 32}, wq)
		at += 64
	}
	u, v := YMM(), YMM()
	VUNPCKLPD(y, x, u) // 0 4 2 6
	VUNPCKHPD(y, x, v) // 1 5 3 7
	twiddles()
	m.butterfly(u, v, w, wq)
	a, b := YMM(), YMM()
	VPERM2F128(Imm(0x20), v, u, a) // 0 4 1 5
	VPERM2F128(Imm(0x31), v, u, b) // 2 6 3 7
	twiddles()
	m.butterfly(a, b, w, wq)
	VPERMPD(Imm(0xd8), a, a) // 0 1 4 5
	VPERMPD(Imm(0xd8), b, b) // 2 3 6 7
	c, d := YMM(), YMM()
	VPERM2F128(Imm(0x20), b, a, c) // 0 1 2 3
	VPERM2F128(Imm(0x31), b, a, d) // 4 5 6 7
	VBROADCASTSD(Mem{Base: table, Disp: at}, w)
	VBROADCASTSD(Mem{Base: table, Disp: at + 8}, wq)
	at += 16
	m.butterfly(c, d, w, wq)
	VMOVUPD(c, Mem{Base: p})
	VMOVUPD(d, Mem{Base: p, Disp: 32})
	ADDQ(Imm(64), p)
	ADDQ(U32(at), table)
	DECQ(blocks)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

// layer: one layer of distance t ≥ 8 values.
func layer() {
	TEXT("inverseLayer", NOSPLIT, "func(p *uint64, table *float64, q *float64, groups int, t int)")
	Doc("inverseLayer does one layer of distance t, a multiple of 8, over all groups of 2t values.")
	Pragma("noescape")
	layerOf(modulus.butterfly)
}

// layerOf is the body of a layer, the same for both transforms but for what is
// done with two registers and their twiddles.
func layerOf(butterfly func(m modulus, u, v, w, wq VecVirtual)) {
	p, table := Load(Param("p"), GP64()), Load(Param("table"), GP64())
	q, groups := Load(Param("q"), GP64()), Load(Param("groups"), GP64())
	t := Load(Param("t"), GP64())
	m := loadModulus(q)
	SHLQ(Imm(3), t) // bytes
	far, turns := GP64(), GP64()
	w, wq := YMM(), YMM()
	Label("group")
	VBROADCASTSD(Mem{Base: table}, w)
	VBROADCASTSD(Mem{Base: table, Disp: 8}, wq)
	ADDQ(Imm(16), table)
	LEAQ(Mem{Base: p, Index: t, Scale: 1}, far)
	MOVQ(t, turns)
	Label("turn")
	for i := range 2 {
		u, v := YMM(), YMM()
		VMOVUPD(Mem{Base: p, Disp: 32 * i}, u)
		VMOVUPD(Mem{Base: far, Disp: 32 * i}, v)
		butterfly(m, u, v, w, wq)
		VMOVUPD(u, Mem{Base: p, Disp: 32 * i})
		VMOVUPD(v, Mem{Base: far, Disp: 32 * i})
	}
	ADDQ(Imm(64), p)
	ADDQ(Imm(64), far)
	SUBQ(Imm(64), turns)
	JNZ(LabelRef("turn"))
	MOVQ(far, p)
	DECQ(groups)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// last: times 1/N, and doubles to residues.
func last() {
	TEXT("inverseLast", NOSPLIT, "func(p *uint64, q *float64, turns int)")
	Doc("inverseLast multiplies 8·turns values by 1/N and turns them into residues.")
	Pragma("noescape")
	p, q, turns := Load(Param("p"), GP64()), Load(Param("q"), GP64()), Load(Param("turns"), GP64())
	m := loadModulus(q)
	magic, w, wq, zero := YMM(), YMM(), YMM(), YMM()
	VBROADCASTSD(Mem{Base: q, Disp: 16}, magic)
	VBROADCASTSD(Mem{Base: q, Disp: 24}, w)
	VBROADCASTSD(Mem{Base: q, Disp: 32}, wq)
	VXORPD(zero, zero, zero)
	Label("turn")
	for i := range 2 {
		x := YMM()
		VMOVUPD(Mem{Base: p, Disp: 32 * i}, x)
		m.product(x, w, wq)
		m.residue(magic, zero, x)
		VMOVUPD(x, Mem{Base: p, Disp: 32 * i})
	}
	ADDQ(Imm(64), p)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	VZEROUPPER()
	RET()
}
