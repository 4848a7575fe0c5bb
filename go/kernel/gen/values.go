package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// magnitudes: how many are beyond a bound, and the largest, by lane.
func magnitudes() {
	TEXT("magnitudes16", NOSPLIT, "func(values *float32, last uint32, turns int, out *uint32)")
	Doc("magnitudes16 writes to out, for each of 8 lanes of 16·turns values, how many magnitudes have bits above last, and the largest bits.")
	Pragma("noescape")
	values, turns, out := Load(Param("values"), GP64()), Load(Param("turns"), GP64()), Load(Param("out"), GP64())
	bound := Load(Param("last"), GP32())
	last, magnitude := YMM(), YMM()
	VMOVD(bound, last.AsX())
	VPBROADCASTD(last.AsX(), last)
	VPCMPEQD(magnitude, magnitude, magnitude)
	VPSRLD(Imm(1), magnitude, magnitude)
	var beyond, largest [2]VecVirtual
	for i := range 2 {
		beyond[i], largest[i] = YMM(), YMM()
		VPXOR(beyond[i], beyond[i], beyond[i])
		VPXOR(largest[i], largest[i], largest[i])
	}
	Label("turn")
	for i := range 2 {
		a, c := YMM(), YMM()
		VPAND(Mem{Base: values, Disp: 32 * i}, magnitude, a)
		VPMAXUD(a, largest[i], largest[i])
		VPCMPGTD(last, a, c)
		VPSUBD(c, beyond[i], beyond[i])
	}
	ADDQ(Imm(64), values)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	VPADDD(beyond[1], beyond[0], beyond[0])
	VPMAXUD(largest[1], largest[0], largest[0])
	VMOVDQU(beyond[0], Mem{Base: out})
	VMOVDQU(largest[0], Mem{Base: out, Disp: 32})
	VZEROUPPER()
	RET()
}

// transpose turns four rows of four 32-bit words into columns.
func transpose(rows [4]VecVirtual) [4]VecVirtual {
	var t, out [4]VecVirtual
	for i := range t {
		t[i], out[i] = XMM(), XMM()
	}
	VPUNPCKLDQ(rows[1], rows[0], t[0]) // 00 10 01 11
	VPUNPCKHDQ(rows[1], rows[0], t[1]) // 02 12 03 13
	VPUNPCKLDQ(rows[3], rows[2], t[2])
	VPUNPCKHDQ(rows[3], rows[2], t[3])
	VPUNPCKLQDQ(t[2], t[0], out[0])
	VPUNPCKHQDQ(t[2], t[0], out[1])
	VPUNPCKLQDQ(t[3], t[1], out[2])
	VPUNPCKHQDQ(t[3], t[1], out[3])
	return out
}

// Counts of shifts lie 16 bytes apart: w, 2w, 3w; 64 less those; those less 64.
// A count that is negative, as an unsigned number, shifts everything out.
func count(p Register, group, lane int) Mem { return Mem{Base: p, Disp: 16 * (3*group + lane - 1)} }

// fill: four lanes in two words, four coefficients a turn.
func fill() {
	TEXT("fill4", NOSPLIT, "func(low *uint64, high *uint64, steps *uint32, counts *uint64, turns int)")
	Doc("fill4 packs 16·turns steps into 4·turns coefficients of four lanes.")
	Pragma("noescape")
	low, high := Load(Param("low"), GP64()), Load(Param("high"), GP64())
	steps, counts, turns := Load(Param("steps"), GP64()), Load(Param("counts"), GP64()), Load(Param("turns"), GP64())
	Label("turn")
	var rows, lanes [4]VecVirtual
	for i := range rows {
		rows[i] = XMM()
		VMOVDQU(Mem{Base: steps, Disp: 16 * i}, rows[i])
	}
	for i, column := range transpose(rows) {
		lanes[i] = YMM()
		VPMOVZXDQ(column, lanes[i])
	}
	l, h, t := lanes[0], YMM(), YMM()
	VPXOR(h, h, h)
	for lane := 1; lane < 4; lane++ {
		VPSLLQ(count(counts, 0, lane), lanes[lane], t)
		VPOR(t, l, l)
		VPSRLQ(count(counts, 1, lane), lanes[lane], t)
		VPOR(t, h, h)
		VPSLLQ(count(counts, 2, lane), lanes[lane], t)
		VPOR(t, h, h)
	}
	VMOVDQU(l, Mem{Base: low})
	VMOVDQU(h, Mem{Base: high})
	ADDQ(Imm(64), steps)
	ADDQ(Imm(32), low)
	ADDQ(Imm(32), high)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	VZEROUPPER()
	RET()
}

// opened is what lanes of sums are turned into values with.
type opened struct{ mask, limit, magic, offset, scale, bad VecVirtual }

func loadOpened(constants Register) opened {
	o := opened{YMM(), YMM(), YMM(), YMM(), YMM(), YMM()}
	for i, r := range []VecVirtual{o.mask, o.limit, o.magic, o.offset, o.scale} {
		VPBROADCASTQ(Mem{Base: constants, Disp: 8 * i}, r)
	}
	VPXOR(o.bad, o.bad, o.bad)
	return o
}

// value notes a lane beyond the limit and returns (v − offset)·scale as
// float32.
func (o opened) value(v VecVirtual) VecVirtual {
	t, row := YMM(), XMM()
	VPSUBQ(v, o.limit, t)
	VPOR(t, o.bad, o.bad)
	VPOR(o.magic, v, v)
	VSUBPD(o.offset, v, v)
	VMULPD(o.scale, v, v)
	VCVTPD2PSY(v, row)
	return row
}

// open: the inverse of fill for sums, four coefficients a turn.
func open() {
	TEXT("open4", NOSPLIT, "func(out *float32, low *uint64, high *uint64, counts *uint64, constants *uint64, turns int) uint64")
	Doc("open4 writes 16·turns values of 4·turns coefficients of four lanes. Bit 63 of the result is set when a lane exceeds the limit.")
	Pragma("noescape")
	out, low, high := Load(Param("out"), GP64()), Load(Param("low"), GP64()), Load(Param("high"), GP64())
	counts, constants, turns := Load(Param("counts"), GP64()), Load(Param("constants"), GP64()), Load(Param("turns"), GP64())
	o := loadOpened(constants)
	Label("turn")
	l, h := YMM(), YMM()
	VMOVDQU(Mem{Base: low}, l)
	VMOVDQU(Mem{Base: high}, h)
	var rows [4]VecVirtual
	for lane := range rows {
		v, t := YMM(), YMM()
		if lane == 0 {
			VPAND(o.mask, l, v)
		} else {
			VPSRLQ(count(counts, 0, lane), l, v)
			VPSLLQ(count(counts, 1, lane), h, t)
			VPOR(t, v, v)
			VPSRLQ(count(counts, 2, lane), h, t)
			VPOR(t, v, v)
			VPAND(o.mask, v, v)
		}
		rows[lane] = o.value(v)
	}
	for i, row := range transpose(rows) {
		VMOVDQU(row, Mem{Base: out, Disp: 16 * i})
	}
	ADDQ(Imm(64), out)
	ADDQ(Imm(32), low)
	ADDQ(Imm(32), high)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	storeSign(o.bad)
	VZEROUPPER()
	RET()
}

// openLane: one lane of four coefficients a turn, wherever it lies in two
// words, to values that others lie between.
func openLane() {
	TEXT("openLane4", NOSPLIT, "func(out *float32, stride int, low *uint64, high *uint64, counts *uint64, constants *uint64, turns int) uint64")
	Doc("openLane4 writes one value of each of 4·turns coefficients, stride bytes apart. Bit 63 of the result is set when a lane exceeds the limit.")
	Pragma("noescape")
	out, stride := Load(Param("out"), GP64()), Load(Param("stride"), GP64())
	low, high := Load(Param("low"), GP64()), Load(Param("high"), GP64())
	counts, constants, turns := Load(Param("counts"), GP64()), Load(Param("constants"), GP64()), Load(Param("turns"), GP64())
	o := loadOpened(constants)
	thrice := GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, thrice)
	Label("turn")
	v, t := YMM(), YMM()
	VMOVDQU(Mem{Base: low}, v)
	VMOVDQU(Mem{Base: high}, t)
	VPSRLQ(Mem{Base: counts}, v, v)
	VPSLLQ(Mem{Base: counts, Disp: 16}, t, t)
	VPOR(t, v, v)
	VPAND(o.mask, v, v)
	row := o.value(v)
	VMOVSS(row, Mem{Base: out})
	VEXTRACTPS(Imm(1), row, Mem{Base: out, Index: stride, Scale: 1})
	VEXTRACTPS(Imm(2), row, Mem{Base: out, Index: stride, Scale: 2})
	VEXTRACTPS(Imm(3), row, Mem{Base: out, Index: thrice, Scale: 1})
	LEAQ(Mem{Base: out, Index: stride, Scale: 4}, out)
	ADDQ(Imm(32), low)
	ADDQ(Imm(32), high)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	storeSign(o.bad)
	VZEROUPPER()
	RET()
}
