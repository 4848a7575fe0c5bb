// Package kernel holds inner loops in AVX2 and FMA, generated with avo, for
// processors that have both. Each has a portable twin where it is used, and a
// test that compares the two bit for bit.
//
// # Security
//
// Kernels that touch secrets neither branch nor look anything up by them.
// Whether floating-point instructions take the same time for all operands is
// argued, not proven: operands are integers of at most 53 bits, never
// subnormal, infinite or NaN, for which no processor with AVX2 is known to
// vary.
package kernel

//go:generate go run ./gen -out kernel_amd64.s -stubs stubs_amd64.go -pkg kernel

// DotWidth and DotRun bound what [Dot] adds up: 2^27·2^31 a product, DotRun/4
// of them in a word of 64 bits.
const (
	DotWidth = 27
	DotRun   = 256
)
