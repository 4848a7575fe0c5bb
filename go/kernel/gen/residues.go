package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// unpack: 8 residues of width bits a turn, two in each half of a register.
// With add they are added to dst, else they replace it.
func unpack(width int, add bool) {
	name, what := fmt.Sprintf("unpack%d", width), "writes"
	if add {
		name, what = fmt.Sprintf("add%d", width), "adds"
	}
	var shuffles, shifts [2]Mem
	var bases [2][2]int
	for r := range 2 { // registers, of four residues
		bytes := make([]byte, 32)
		var shift [4]uint64
		for half := range 2 {
			i := 4*r + 2*half
			base := min(i*width/8, width-16)
			bases[r][half] = base
			for k := range 2 {
				at, bit := (i+k)*width/8, (i+k)*width%8
				shift[2*half+k] = uint64(bit)
				for n := range 8 {
					from := byte(at - base + n)
					if n >= (bit+width+7)/8 {
						from = 0x80 // a zero
					}
					bytes[16*half+8*k+n] = from
				}
			}
		}
		shuffles[r] = GLOBL(fmt.Sprintf("%sShuffle%d", name, r), RODATA|NOPTR)
		for n, b := range bytes {
			DATA(n, U8(b))
		}
		shifts[r] = GLOBL(fmt.Sprintf("%sShift%d", name, r), RODATA|NOPTR)
		for n, s := range shift {
			DATA(8*n, U64(s))
		}
	}

	TEXT(name, NOSPLIT, "func(dst *uint64, src *byte, q *uint64, turns int) uint64")
	Doc(fmt.Sprintf("%s %s 8·turns residues of %d bits. q has q − 1 and the mask. Bit 63 of the result is set when one is not below q.", name, what, width))
	Pragma("noescape")
	dst, src := Load(Param("dst"), GP64()), Load(Param("src"), GP64())
	q, turns := Load(Param("q"), GP64()), Load(Param("turns"), GP64())
	largest, mask, bad := YMM(), YMM(), YMM()
	VPBROADCASTQ(Mem{Base: q}, largest)
	VPBROADCASTQ(Mem{Base: q, Disp: 8}, mask)
	VPXOR(bad, bad, bad)
	var shuffle, shift [2]VecVirtual
	for r := range 2 {
		shuffle[r], shift[r] = YMM(), YMM()
		VMOVDQU(shuffles[r], shuffle[r])
		VMOVDQU(shifts[r], shift[r])
	}
	Label("turn")
	for r := range 2 {
		v, over := YMM(), YMM()
		VMOVDQU(Mem{Base: src, Disp: bases[r][0]}, v.AsX())
		VINSERTI128(Imm(1), Mem{Base: src, Disp: bases[r][1]}, v, v)
		VPSHUFB(shuffle[r], v, v)
		VPSRLVQ(shift[r], v, v)
		VPAND(mask, v, v)
		VPSUBQ(v, largest, over)
		VPOR(over, bad, bad)
		if add {
			VPADDQ(Mem{Base: dst, Disp: 32 * r}, v, v)
		}
		VMOVDQU(v, Mem{Base: dst, Disp: 32 * r})
	}
	ADDQ(Imm(uint64(width)), src)
	ADDQ(Imm(64), dst)
	DECQ(turns)
	JNZ(LabelRef("turn"))
	storeSign(bad)
	VZEROUPPER()
	RET()
}

// storeSign returns a word whose bit 63 is set when it is in any lane of bad.
func storeSign(bad VecVirtual) {
	sign, wide := GP32(), GP64()
	VMOVMSKPD(bad, sign)
	NEGL(sign) // bit 31 when any lane's is set
	MOVLQSX(sign, wide)
	Store(wide, ReturnIndex(0))
}
