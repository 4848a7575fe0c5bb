package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/task"
)

// agreement is what agreeing on ranges cost; the next contribution's report
// includes it.
type agreement struct {
	seconds  float64
	up, down int64
}

// Ready returns the next open round of updates. Rounds in which the cohort
// agrees on ranges are taken part in on the way: they say, under the same
// encryption and only as a sum, how large the update's tensors are.
func (x *Client) Ready(ctx context.Context, u Update, progress Progress) (*Round, error) {
	if err := x.check(u); err != nil {
		return nil, err
	}
	if x.interrupted(task.KindRanges) != nil {
		if err := x.agree(ctx, nil, u, progress); err != nil && !errors.Is(err, errs.ErrAborted) {
			return nil, err
		}
	}
	for {
		r, err := x.Open(ctx)
		if err != nil || r.Spec.Kind == task.KindValues {
			return r, err
		}
		if err := x.agree(ctx, r, u, progress); err != nil && !errors.Is(err, errs.ErrAborted) {
			return nil, err
		}
	}
}

// check refuses an update that no round would take, before anything is sent.
func (x *Client) check(u Update) error {
	if n := x.task.Layout.Values(); int64(len(u.Values)) != n {
		return fmt.Errorf("an update of %d values for a layout of %d: %w", len(u.Values), n, errs.ErrLayout)
	}
	if err := x.begun(); err != nil {
		return err
	}
	for name, v := range u.Metrics {
		if !slices.Contains(x.task.Metrics, name) {
			return fmt.Errorf("the task has no metric %q; it has %q: %w", name, x.task.Metrics, errs.ErrArgument)
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("metric %q is NaN or an infinity: %w", name, errs.ErrNotFinite)
		}
		if err := seal.CheckMetric(name, v); err != nil {
			return err
		}
	}
	if x.task.Privacy != nil && u.Examples >= 1 {
		return nil // every client counts the same
	}
	if u.Examples < 1 || u.Examples > int64(x.task.WeightCap) {
		return fmt.Errorf("num_examples is %d; the task allows 1 to %d, its weight_cap: %w", u.Examples, x.task.WeightCap, errs.ErrWeight)
	}
	return nil
}

// agree takes part in a round of ranges and keeps what it gives. Without one
// it goes on with that which was interrupted, if any.
func (x *Client) agree(ctx context.Context, r *Round, u Update, progress Progress) error {
	began := time.Now()
	up, down := x.meter.Bytes()
	defer func() {
		nowUp, nowDown := x.meter.Bytes()
		x.mu.Lock()
		x.agreed.seconds += time.Since(began).Seconds()
		x.agreed.up, x.agreed.down = x.agreed.up+nowUp-up, x.agreed.down+nowDown-down
		x.mu.Unlock()
	}()
	quiet := func(phase Phase, done, total int64) {
		if phase == Wait {
			progress(Agree, done, total)
		}
	}
	var c *Contribution
	var err error
	if r == nil {
		c, err = x.unfinished(ctx, task.KindRanges, quiet)
	} else {
		c, err = x.vote(ctx, r, u, quiet)
	}
	if c == nil || err != nil {
		return err
	}
	votes := make([]float32, c.round.Values())
	report, err := x.Collect(ctx, c, votes, quiet)
	if err != nil {
		return err
	}
	ranges := make([]float32, len(x.task.Layout))
	for k := range ranges {
		ranges[k] = largestRange(votes[k*task.ExponentBuckets:(k+1)*task.ExponentBuckets], report.Cohort, x.task.Trim)
	}
	x.mu.Lock()
	x.ranges = ranges
	x.mu.Unlock()
	return nil
}

// vote contributes the bucket of each of the update's tensors.
func (x *Client) vote(ctx context.Context, r *Round, u Update, progress Progress) (*Contribution, error) {
	shape, err := x.task.Shape(task.KindRanges)
	if err != nil {
		return nil, err
	}
	factor := 1.0
	if x.task.Mode == params.SumKey {
		factor = float64(u.Examples) / float64(x.task.WeightCap)
	}
	buckets, err := exponents(u.Values, x.task.Layout, factor)
	if err != nil {
		return nil, err
	}
	votes := make([]float32, shape.Layout.Values())
	for k, b := range buckets {
		votes[k*task.ExponentBuckets+b] = 1
	}
	return x.contribute(ctx, r, Update{Values: votes, Examples: 1}, progress)
}

// exponents finds the bucket of each tensor's largest magnitude times factor:
// it returns ErrNotFinite, naming the tensor, for NaN or an infinity.
func exponents(values []float32, layout task.Layout, factor float64) ([]int, error) {
	out, bad := make([]int, len(layout)), make([]bool, len(layout))
	limit := make(chan struct{}, 4)
	var wg sync.WaitGroup
	for k, t := range layout {
		part := values[:t.Count()]
		values = values[t.Count():]
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			largest := uint32(0)
			for _, v := range part {
				largest = max(largest, math.Float32bits(v)&^(1<<31))
			}
			bad[k] = largest > math.Float32bits(math.MaxFloat32)
			out[k] = bucket(float64(math.Float32frombits(largest)) * factor)
		})
	}
	wg.Wait()
	for k, b := range bad {
		if b {
			return nil, fmt.Errorf("tensor %q holds NaN or an infinity: %w", layout[k].Name, errs.ErrNotFinite)
		}
	}
	return out, nil
}

// slack keeps a value that the product with a factor rounded down within its
// range.
const slack = 1 + 0x1p-40

// bucket of a magnitude: the least b with a·slack ≤ 2^(b + LeastExponent).
func bucket(a float64) int {
	fraction, exponent := math.Frexp(a * slack)
	if fraction == 0.5 {
		exponent--
	}
	if a == 0 {
		return 0
	}
	return max(0, min(task.ExponentBuckets-1, exponent-task.LeastExponent))
}

// rangeOf is the range of a bucket.
func rangeOf(b int) float32 {
	return float32(math.Min(math.Ldexp(1, b+task.LeastExponent), math.MaxFloat32))
}

// largestRange is that of the largest bucket in which a client of the cohort is,
// when the trim largest claims are ignored: shares are the buckets' parts of the
// cohort.
func largestRange(shares []float32, cohort, trim uint32) float32 {
	above := uint32(0)
	for b := len(shares) - 1; b > 0; b-- {
		if above += count(shares[b], cohort); above > trim {
			return rangeOf(b)
		}
	}
	return rangeOf(0)
}

// count is how many clients of a cohort a share is.
func count(share float32, cohort uint32) uint32 {
	return uint32(max(0, math.Round(float64(share)*float64(cohort))))
}

// maxFraction is how far a share of a cohort may be from a whole number of
// clients: far more than rounding to float32 costs and far less than a step of
// the encoding, so that every client judges alike.
const maxFraction = 0.05

// honest returns ErrVotes unless the votes of a round of ranges can be those of
// honest clients: for each tensor, whole numbers of clients that sum to the
// cohort, this client's own vote among them. A client that votes −1 somewhere
// would otherwise cancel another's vote, and the range would clip its values.
func (x *Client) honest(c *Contribution, shares []float32, cohort uint32) error {
	for k, t := range x.task.Layout {
		row, sum := shares[k*task.ExponentBuckets:(k+1)*task.ExponentBuckets], 0.0
		for b, share := range row {
			n := float64(share) * float64(cohort)
			if whole := math.Round(n); math.Abs(n-whole) > maxFraction || whole < 0 || whole > float64(cohort) {
				return fmt.Errorf("tensor %q: %.2f clients of %d voted for one range: %w", t.Name, n, cohort, errs.ErrVotes)
			}
			sum += math.Round(n)
			if c.values[k*task.ExponentBuckets+b] == 1 && count(share, cohort) == 0 {
				return fmt.Errorf("tensor %q: this client's vote was cancelled: %w", t.Name, errs.ErrVotes)
			}
		}
		if sum != float64(cohort) {
			return fmt.Errorf("tensor %q: %.0f votes of %d clients: %w", t.Name, sum, cohort, errs.ErrVotes)
		}
	}
	return nil
}

// Adaptive ranges follow the global update. A tensor of which more than one value in 1000 was
// clipped gets a range growth times as large; another's range shrinks to margin
// times the largest magnitude of the global update, by at most growth at once.
const (
	growth       = 4
	margin       = 8
	tooManyInOne = 1000
)

// adapt is the range of the round that follows one with the given range:
// clipped of the cohort's n·count values were clipped, mean is the tensor's
// part of the global update. All clients compute it from the same bits.
func adapt(before float32, mean []float32, clipped uint64, cohort uint32, count int64) float32 {
	if clipped*tooManyInOne > uint64(cohort)*uint64(count) {
		return float32(math.Min(float64(before)*growth, math.MaxFloat32))
	}
	largest := float32(0)
	for _, v := range mean {
		largest = max(largest, float32(math.Abs(float64(v))))
	}
	if largest == 0 {
		return before
	}
	return max(min(rangeOf(bucket(float64(largest)*margin)), before), before/growth)
}

// follow brings the ranges of a task that does not fix them up to a published
// round of updates.
func (x *Client) follow(c *Contribution, out []float32, control []uint64, cohort uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch x.task.Ranges {
	case task.RangesNegotiated:
		x.ranges = nil
	case task.RangesAdaptive:
		order := c.round.Controls()
		next := make([]float32, len(x.ranges))
		for k, t := range c.round.Tensors {
			clipped := control[params.ControlClipped]
			if order.Tensors > 0 {
				clipped = control[order.Clipped(k)]
			}
			next[k] = adapt(x.ranges[k], out[:t.Count], clipped, cohort, t.Count)
			out = out[t.Count:]
		}
		x.ranges = next
	}
}
