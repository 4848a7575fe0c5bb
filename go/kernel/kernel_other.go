//go:build !amd64

package kernel

// Available reports whether this processor runs the kernels.
const Available = false

// Thresholds is the size of the sampler's table.
const Thresholds = 40

// Gauss does nothing here.
func Gauss([]int32, []byte, *[Thresholds]uint64) int { return 0 }

// Transform is never called here: NewInverse returns nil.
func (t *Inverse) Transform([]uint64) { panic("kernel: not available") }
