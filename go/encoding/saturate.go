package encoding

import "math"

// finite is x, or the largest float32 of its sign for an infinity: rounding,
// divided by small weights, can carry the mean of values near the largest
// float32 beyond it.
func finite(x float32) float32 {
	return max(-math.MaxFloat32, min(math.MaxFloat32, x))
}

// saturate makes the means of the tensors that can exceed a float32 finite.
// Others are not looked at. Means are known to the whole cohort.
func (l *Lanes) saturate(out []float32, first int64, weight uint32, divisor float64) {
	for k := l.at(first); k < len(l.tensors) && l.tensors[k].from-first < int64(len(out)); k++ {
		t := &l.tensors[k]
		if t.limit*float64(weight)/divisor < math.MaxFloat32/2 {
			continue
		}
		part := out[max(t.from-first, 0):min(t.to-first, int64(len(out)))]
		for i, x := range part {
			part[i] = finite(x)
		}
	}
}
