//go:build !amd64

package kernel

// Available reports whether this processor runs the kernels.
const Available = false

// Thresholds is the size of the sampler's table.
const Thresholds = 40

// Gauss does nothing here.
func Gauss([]int32, []byte, *[Thresholds]uint64) int { return 0 }

// Stochastic does nothing here.
func Stochastic([]uint32, []float32, []byte, float64, int64, uint32) int { return 0 }

// Multiply is never called here: NewFactors returns nil.
func (f *Factors) Multiply([]uint64, []byte, uint64) bool { panic("kernel: not available") }

// Message does nothing here.
func (o *One) Message([]uint64, []uint64, []uint64, []int32) int { return 0 }

// Difference does nothing here.
func (o *One) Difference([]uint64, []uint64, []uint64) int { return 0 }

// Transform is never called here: NewInverse returns nil.
func (t *Inverse) Transform([]uint64) { panic("kernel: not available") }
