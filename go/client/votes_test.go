package client

import (
	"errors"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/task"
)

// TestVotesOnRangesAreCounted: a row is whole numbers of clients that sum to the
// cohort, this client's own vote among them.
func TestVotesOnRangesAreCounted(t *testing.T) {
	const cohort = 4
	x := &Client{task: &task.Task{Layout: task.Layout{{Name: "a"}, {Name: "b"}}}}
	own := make([]float32, 2*task.ExponentBuckets)
	own[100], own[task.ExponentBuckets+7] = 1, 1
	for name, c := range map[string]struct {
		change func(counts []float32)
		honest bool
	}{
		"as they are":                   {func([]float32) {}, true},
		"another's vote is cancelled":   {func(v []float32) { v[120]--; v[5]++ }, true}, // its owner notices
		"mine is cancelled":             {func(v []float32) { v[100] -= 1; v[5]++ }, false},
		"a vote of minus one":           {func(v []float32) { v[60]--; v[5]++ }, false},
		"two votes of one client":       {func(v []float32) { v[60]++ }, false},
		"no vote of one client":         {func(v []float32) { v[120]-- }, false},
		"a seventh of a vote":           {func(v []float32) { v[60] += 1. / 7; v[120] -= 1. / 7 }, false},
		"more than there are":           {func(v []float32) { v[60] += 5; v[61] -= 5 }, false},
		"the second tensor's, the same": {func(v []float32) { v[task.ExponentBuckets+7] -= 1; v[task.ExponentBuckets]++ }, false},
	} {
		counts := make([]float32, 2*task.ExponentBuckets)
		counts[100], counts[120] = 1, 3
		counts[task.ExponentBuckets+7], counts[task.ExponentBuckets+9] = 1, 3
		c.change(counts)
		for i := range counts {
			counts[i] /= cohort
		}
		err := x.honest(&Contribution{values: own}, counts, cohort)
		if (err == nil) != c.honest || (err != nil && !errors.Is(err, errs.ErrVotes)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTheLargestClaimsCanBeIgnored, so that one client costs the others nothing.
func TestTheLargestClaimsCanBeIgnored(t *testing.T) {
	shares := make([]float32, task.ExponentBuckets)
	shares[100], shares[110], shares[255] = 5./8, 2./8, 1./8
	for trim, want := range []int{255, 110, 110, 100, 100, 100, 100, 100, 0} {
		if got := largestRange(shares, 8, uint32(trim)); got != rangeOf(want) {
			t.Errorf("trim %d gives %g, want %g", trim, got, rangeOf(want))
		}
	}
}
