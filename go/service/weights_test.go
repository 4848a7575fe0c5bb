package service_test

import (
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/client"
)

// In shared-key weights are rounded to a public scale: the stated bound is
// about the mean by the numbers of examples that clients gave.
func TestTheStatedBoundIsAboutTheExamplesGiven(t *testing.T) {
	const n = 500
	w := newWorld(t, 3, 3)
	layout := []client.TensorSpec{{Name: "a", Shape: []uint64{n}}}
	w.create(t, client.TaskRequest{Mode: "shared-key", WeightCap: 1000, Rounds: 2, Layout: layout}, make([]float32, n))
	rng := rand.New(rand.NewPCG(22, 1))
	members := make([]*client.Client, 3)
	for i := range members {
		members[i] = w.client(t, i)
	}
	for _, weights := range [][]uint32{{3, 6, 10}, {997, 1, 431}} {
		updates, means, bounds := make([][]float32, 3), make([][]float32, 3), make([]float64, 3)
		for i := range updates {
			updates[i], means[i] = noise(rng, n), make([]float32, n)
		}
		together(t, 3, func(i int) error {
			u := client.Update{Values: updates[i], Examples: int64(weights[i])}
			r, err := members[i].Average(t.Context(), u, means[i], quiet)
			if err == nil {
				bounds[i] = r.StatedBound
			}
			return err
		})
		if bounds[0] != bounds[1] || bounds[0] > 1 {
			t.Fatalf("bounds %v", bounds)
		}
		checkMean(t, updates, weights, means, bounds[0])
	}
}
