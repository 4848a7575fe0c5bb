package client

import (
	"math"

	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/task"
)

// weight is what represents num_examples in a round. Shared-key has public
// integer weights of at most 255: above, weights are rounded to that scale.
func (x *Client) weight(examples uint32) uint32 {
	if !scaled(x.task) || examples > x.task.WeightCap {
		return examples
	}
	return publicWeight(examples, x.task.WeightCap, x.task.PublicWeightCap())
}

// scaled says whether public weights stand for larger numbers of examples.
func scaled(t *task.Task) bool {
	return t.Mode == params.SharedKey && t.WeightCap != t.PublicWeightCap()
}

func publicWeight(examples, limit, public uint32) uint32 {
	return max(1, uint32(math.Round(float64(examples)*float64(public)/float64(limit))))
}

// examplesOf are the least and the largest number of examples that a public
// weight represents.
func examplesOf(weight, limit, public uint32) (least, largest uint64) {
	w, c, p := uint64(weight), uint64(limit), uint64(public)
	up := func(numerator uint64) uint64 { return (numerator + 2*p - 1) / (2 * p) }
	if least = 1; w > 1 {
		least = up((2*w - 1) * c)
	}
	return least, min(c, up((2*w+1)*c)-1)
}

// roundedWeights bounds what rounding of weights costs, as a share of a
// tensor's range r: the difference between the mean with public weights and the
// mean with the clients' num_examples, for values within ±r. It follows from
// public numbers alone.
//
// Let w'_i be the public weights, p_i = w'_i/Σw', s = w_cap/255, and
// w_i = s·w'_i + e_i the numbers of examples, with |e_i| ≤ δ_i. Then the means
// differ by Σ_j x_j·(p_j·E - e_j)/Σw with E = Σe_i. The magnitudes of these
// coefficients sum to at most 2·Σ(1-p_j)·δ_j, and Σw is at least the sum of the
// least numbers that the weights represent. Two means of values within ±r never
// differ by more than 2r.
func roundedWeights(t *task.Task, m *task.Manifest) float64 {
	if !scaled(t) {
		return 0
	}
	public := t.PublicWeightCap()
	sum := 0.0
	for _, e := range m.Entries {
		sum += float64(e.Weight)
	}
	examples, off := 0.0, 0.0
	for _, e := range m.Entries {
		least, largest := examplesOf(e.Weight, t.WeightCap, public)
		// P·δ is an integer below 2^34: nothing cancels.
		middle, p := int64(t.WeightCap)*int64(e.Weight), int64(public)
		delta := max(middle-p*int64(least), p*int64(largest)-middle)
		off += (1 - float64(e.Weight)/sum) * float64(delta) / float64(public)
		examples += float64(least)
	}
	return min(2, 2*off/examples)
}
