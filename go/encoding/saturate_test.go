package encoding

import (
	"math"
	"testing"

	"github.com/cryptflow/cryptflow/go/params"
)

// TestMeansAreFinite: all values at the largest float32, a weight far below its
// cap, stochastic rounding upwards, in layouts of one and of two words.
func TestMeansAreFinite(t *testing.T) {
	for _, p := range params.Presets() {
		s := scheme(t, p.Name, 8, 2, params.Stochastic)
		l, err := NewLanes(s, []Tensor{{Count: 3, Range: 1}, {Count: 5, Range: math.MaxFloat32}, {Count: 2, Range: 2}})
		if err != nil {
			t.Fatal(err)
		}
		x, rho, words := make([]float32, l.Values()), make([]byte, 4*l.Values()), planes(s)
		for i := range x {
			x[i] = math.MaxFloat32 * float32(1-2*(i%2))
		}
		for i := range rho {
			rho[i] = byte(0xff * (1 - i/4%2))
		}
		const factor = 1.0 / 1000
		l.Encode(words, x, 0, factor, rho)
		got := make([]float32, len(x))
		if err := l.Decode(got, words, 0, 1, factor); err != nil {
			t.Fatal(err)
		}
		for i, v := range got[3:8] {
			if want := x[3+i]; v != want {
				t.Errorf("%s: value %d of the largest magnitude opens to %v, want %v", p.Name, i, v, want)
			}
		}
		for _, v := range append(got[:3:3], got[8:]...) {
			if math.Abs(float64(v)) > 2/factor || math.IsInf(float64(v), 0) {
				t.Errorf("%s: another tensor opens to %v", p.Name, v)
			}
		}
	}
}
