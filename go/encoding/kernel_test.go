package encoding

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cryptflow/cryptflow/go/kernel"
)

// floats is random values with those among them at which kernels may go wrong.
func floats(rng *rand.Rand, n int) []float32 {
	special := []uint32{0, 1 << 31, 1, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x3f800000, 0x3f800001}
	out := make([]float32, n)
	for i := range out {
		if out[i] = float32(rng.NormFloat64()); rng.IntN(9) == 0 {
			out[i] = math.Float32frombits(special[rng.IntN(len(special))])
		}
	}
	return out
}

// TestTheFastCountIsThePortableOne at every length around a turn.
func TestTheFastCountIsThePortableOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 1))
	for _, last := range []uint32{0, 1, math.Float32bits(1), math.Float32bits(math.MaxFloat32)} {
		for n := range 100 {
			values := floats(rng, n)
			inside, largest := count(values, last)
			wantInside, wantLargest := countPlain(values, last)
			if inside != wantInside || largest != wantLargest {
				t.Fatalf("%d values: %d inside, largest %#x; want %d, %#x", n, inside, largest, wantInside, wantLargest)
			}
		}
	}
}

// TestTheFastLanesAreThePortableOnes for every width of four lanes.
func TestTheFastLanesAreThePortableOnes(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 2))
	for width := 4; width <= 31; width++ {
		for _, n := range []int{0, 1, 3, 4, 5, 64, 67} {
			steps := make([]uint32, 4*n)
			for i := range steps {
				if steps[i] = uint32(rng.Uint64N(1 << width)); rng.IntN(5) == 0 {
					steps[i] = 1<<width - 1
				}
			}
			var got, want [2][]uint64
			for w := range 2 {
				got[w], want[w] = slices.Repeat([]uint64{^uint64(0)}, n), make([]uint64, n)
			}
			fillTwo(got[0], got[1], steps, 4, uint(width))
			fillPlain(want[0], want[1], steps, 4, uint(width))
			if !slices.Equal(got[0], want[0]) || !slices.Equal(got[1], want[1]) {
				t.Fatalf("%d coefficients with lanes of %d bits differ", n, width)
			}
			for _, offset := range []int64{0, 1, 1 << (width - 1), 1<<(width-1) - 1, 1 << (width - 2)} {
				o := lanesOut{offset: offset, scale: 0.37 / float64(offset+1), width: uint(width), lanes: 4}
				opened, plain := make([]float32, 4*n), make([]float32, 4*n)
				bad, wantBad := o.open(opened, got[0], got[1]), o.openPlain(plain, got[0], got[1])
				if bad>>63 != wantBad>>63 || !slices.Equal(opened, plain) {
					t.Fatalf("opening %d coefficients with lanes of %d bits, offset %d: differs", n, width, offset)
				}
			}
		}
	}
}

// TestTheFastLaneIsThePortableOne for lanes of every width, wherever they lie.
func TestTheFastLaneIsThePortableOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 3))
	for width := 4; width <= 48; width++ {
		for shift := range uint(64) {
			for _, n := range []int{1, 5, 12} {
				const lanes, scale = 3, 0.37
				words := [][]uint64{make([]uint64, n), make([]uint64, n)}
				for w := range words {
					for i := range words[w] {
						words[w][i] = rng.Uint64()
					}
				}
				low, high := words[0], words[1]
				if int(shift)+width <= 64 {
					high = low
				}
				got, want := make([]float32, lanes*n), make([]float32, lanes*n)
				for _, offset := range []int64{1 << (width - 2), 1 << (width - 1)} {
					done, bad := kernel.OpenLane(got, lanes, low, high, int(shift), width, offset, scale)
					if kernel.Available && done != n&^3 {
						t.Fatalf("%d of %d coefficients were opened", done, n)
					}
					bad |= openPlain(got[min(done*lanes, len(got)):], lanes, low[done:], high[done:], shift, width, offset, scale)
					wantBad := openPlain(want, lanes, low, high, shift, width, offset, scale)
					if !slices.Equal(got, want) || bad>>63 != wantBad>>63 {
						t.Fatalf("width %d at bit %d, %d coefficients differ", width, shift, n)
					}
				}
			}
		}
	}
}
