package client

import (
	"errors"
	"math"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/task"
)

// Every magnitude fits its bucket's range and not half of it.
func TestBuckets(t *testing.T) {
	for _, a := range []float64{
		1e-45, 1e-39, 0x1p-126, 0x1.8p-126, 1e-6, 0.25, 0.2500001, 0.3, 0.5, 1, 1.0000001, 2, 3, 1e6, 1e38, math.MaxFloat32,
	} {
		b := bucket(a)
		r := float64(rangeOf(b))
		if a > r {
			t.Errorf("%g has range %g", a, r)
		}
		if b > 0 && a*slack <= r/2 && r < math.MaxFloat32 {
			t.Errorf("%g has range %g, half would do", a, r)
		}
	}
	if bucket(0) != 0 {
		t.Errorf("0 lies in bucket %d", bucket(0))
	}
	for b := range task.ExponentBuckets {
		if r := rangeOf(b); !(r > 0) || math.IsInf(float64(r), 0) {
			t.Errorf("bucket %d has range %g", b, r)
		}
	}
}

func TestExponentsNameWhatIsNotFinite(t *testing.T) {
	layout := task.Layout{{Name: "a", Shape: []uint64{2}}, {Name: "b", Shape: []uint64{3}}}
	got, err := exponents([]float32{0, -0.5, 1e-30, 3, 2}, layout, 0.5)
	if err != nil || got[0] != bucket(0.25) || got[1] != bucket(1.5) {
		t.Fatalf("%v %v", got, err)
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if _, err := exponents([]float32{0, 0, 0, float32(v), 0}, layout, 1); !errors.Is(err, errs.ErrNotFinite) || err.Error()[:10] != `tensor "b"` {
			t.Errorf("%v: %v", v, err)
		}
	}
}

func TestLargestRange(t *testing.T) {
	shares := make([]float32, task.ExponentBuckets)
	if got := largestRange(shares, 3, 0); got != rangeOf(0) {
		t.Errorf("nobody: %g", got)
	}
	shares[100], shares[120] = 2.0/3, 1.0/3
	if got := largestRange(shares, 3, 0); got != rangeOf(120) {
		t.Errorf("the largest of three: %g, want %g", got, rangeOf(120))
	}
}

func TestAdapt(t *testing.T) {
	for name, c := range map[string]struct {
		before  float32
		mean    []float32
		clipped uint64
		want    float32
	}{
		"too many clipped":        {1, []float32{0.9, 0}, 3, 4},
		"few clipped":             {1, []float32{0.1, 0}, 2, 1},
		"follows down, not below": {1, []float32{1e-4, 0}, 0, 0.25},
		"follows down":            {0.01, []float32{-4e-4, 0}, 0, 0x1p-8},
		"stays while it suffices": {0.01, []float32{1, 0}, 0, 0.01},
		"nothing moved":           {0.5, []float32{0, 0}, 0, 0.5},
		"the largest there is":    {math.MaxFloat32, []float32{math.MaxFloat32, 0}, 999, math.MaxFloat32},
	} {
		if got := adapt(c.before, c.mean, c.clipped, 2, 1000); got != c.want {
			t.Errorf("%s: %g, want %g", name, got, c.want)
		}
	}
}
