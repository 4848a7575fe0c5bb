package ckks

import (
	"math/bits"

	"github.com/tuneinsight/lattigo/v5/schemes/ckks"

	"github.com/cryptflow/cryptflow/go/params"
)

// Slots is the canonical embedding of CKKS by lattigo's transforms: real slots
// to the real coefficients of a polynomial and back. Addition is coefficient
// by coefficient in every ring, so that both rings' polynomials travel in the
// same ciphertexts; nothing encrypted is ever multiplied.
//
// A Slots is used by one goroutine at a time.
type Slots struct {
	degree int // coefficients
	real   bool
	m      int
	group  []int
	roots  []complex128
	buf    []complex128
}

// galois generates the order of slots.
const galois = 5

// NewSlots prepares the embedding of a preset's degree N: [params.Slots], N/2
// values as the real parts of the slots of Z[X]/(X^N+1), or
// [params.SlotsReal], N values in the slots of Z[X+X^-1]/(X^2N+1).
func NewSlots(p *params.Preset, e params.Encoding) *Slots {
	s := &Slots{degree: p.N(), real: e == params.SlotsReal, m: 2 * p.N()}
	if s.real {
		s.m *= 2
	}
	s.buf, s.group = make([]complex128, s.m/4), make([]int, s.m/4)
	power := 1
	for i := range s.group {
		s.group[i] = power
		power = power * galois & (s.m - 1)
	}
	s.roots = ckks.GetRootsComplex128(s.m)
	return s
}

// Values is the number of slots.
func (s *Slots) Values() int { return len(s.buf) }

// Embed writes to coefficients, N of them, the polynomial whose slots are
// values; slots beyond them are 0. No coefficient exceeds the largest value in
// magnitude, but for rounding.
func (s *Slots) Embed(coefficients, values []float64) {
	for i := range s.buf {
		s.buf[i] = 0
		if i < len(values) {
			s.buf[i] = complex(values[i], 0)
		}
	}
	ckks.SpecialiFFTDoubleUnrolled8(s.buf, len(s.buf), s.m, s.group, s.roots)
	for i, v := range s.buf {
		coefficients[i] = real(v)
		if !s.real {
			coefficients[len(s.buf)+i] = imag(v)
		}
	}
}

// Extract is the inverse of Embed: it writes the first len(values) slots.
func (s *Slots) Extract(values, coefficients []float64) {
	n := len(s.buf)
	for i := range s.buf {
		switch {
		case !s.real:
			s.buf[i] = complex(coefficients[i], coefficients[n+i])
		case i == 0:
			s.buf[i] = complex(coefficients[0], 0)
		default:
			s.buf[i] = complex(coefficients[i], -coefficients[n-i])
		}
	}
	ckks.SpecialFFTDoubleUL8(s.buf, n, s.m, s.group, s.roots)
	for i := range values {
		values[i] = real(s.buf[i])
	}
}

// Point is the exponent k of the root of unity exp(2πi·k/M) at which slot i is
// the polynomial's value, and M.
func (s *Slots) Point(i int) (k, m int) { return s.group[i], 1 << (bits.Len(uint(s.m)) - 1) }
