//go:build !amd64

package kernel

// Available reports whether this processor runs the kernels.
const Available = false

// HasCounter reports whether this processor has vector AES instructions.
const HasCounter = false

// Thresholds is the size of the sampler's table.
const Thresholds = 40

// Gauss does nothing here.
func Gauss([]int32, []byte, *[Thresholds]uint64) int { return 0 }

// Stochastic does nothing here.
func Stochastic([]uint32, []float32, []byte, float64, int64, uint32) int { return 0 }

// Multiply is never called here: NewFactors returns nil.
func (f *Factors) Multiply([]uint64, []byte, uint64) bool { panic("kernel: not available") }

// Message does nothing here.
func (o *One) Message(_, _, _ []uint64, _ []int32, _, _ int) int { return 0 }

// Limbs does nothing here.
func (o *One) Limbs(_ []uint64, _ *[4][]uint64, _ []int32) int { return 0 }

// Mixed does nothing here.
func (d *Digits) Mixed(_, _, _, _ []uint64) int { return 0 }

// Words does nothing here.
func (j *Join) Words(_, _, _, _ []uint64, _ int, _ uint64) (int, uint64) { return 0, 0 }

// turns is never called here: NewCounter returns nil.
func (c *Counter) turns([]byte, *[12]byte, uint32) { panic("kernel: not available") }

// Unpack does nothing here.
func Unpack([]uint64, []byte, int, uint64, bool) (int, uint64) { return 0, 0 }

// Magnitudes does nothing here.
func Magnitudes([]float32, uint32) (int, uint64, uint32) { return 0, 0, 0 }

// Fill does nothing here.
func Fill(_, _ []uint64, _ []uint32, _ int) int { return 0 }

// Open does nothing here.
func Open(_ []float32, _, _ []uint64, _ int, _ int64, _ float64) (int, uint64) { return 0, 0 }

// OpenLane does nothing here.
func OpenLane(_ []float32, _ int, _, _ []uint64, _, _ int, _ int64, _ float64) (int, uint64) {
	return 0, 0
}

// Dot does nothing here.
func Dot(_, _, _ []uint64, _, _ int) (lower, upper [4]uint64, done int) { return lower, upper, 0 }

// Transform is never called here: NewInverse returns nil.
func (t *Inverse) Transform([]uint64) { panic("kernel: not available") }

// Transform is never called here: NewForward returns nil.
func (t *Forward) Transform([]uint64) { panic("kernel: not available") }
