// Package privacy makes the mean of a round differentially private: it clips
// an update's L2 norm, rounds it to integers, and adds discrete Gaussian noise
// before anything is encrypted. What it promises stands in the signed task as
// a [Promise], in integers, so that whoever verifies the task verifies the
// noise. docs/privacy.md says for whom the promise holds.
//
// # Security
//
// One client's data is a unit: neighbouring cohorts differ in that the update
// of one client is zero. Three statements make the guarantee.
//
//  1. Sensitivity (proven). What a client adds to the sum before noise is an
//     integer vector y with Σy² ≤ Bound: that is checked in exact integers,
//     after rounding, and rounding towards zero, which cannot inflate a norm,
//     replaces one that exceeds it. Stochastic rounding inflates c² by about
//     d/4; Bound is the conditional bound of Kairouz, Liu and Steinke, "The
//     Distributed Discrete Gaussian Mechanism", ICML 2021, §4.1, with β =
//     2^-64. Privacy does not rest on its probability, only precision does.
//  2. Noise (proven, in the cited papers). Each client adds discrete Gaussian
//     noise of variance σ² ≥ 16 steps², sampled exactly (see [Gaussian]). A
//     sum of m of them is not a discrete Gaussian, but close: by that paper's
//     theorem on such sums the two differ, a coordinate, by a max divergence
//     of at most τ = 10·Σ_{k<m} exp(−2π²σ²k/(k+1)) ≤ 10·m·exp(−π²σ²) < 2^-212
//     in both directions: less than 2^-150 for 2^36 values in 2^20 rounds. A
//     discrete Gaussian of variance mσ² has Rényi divergences no larger than
//     the continuous one's: Canonne, Kamath and Steinke, "The Discrete
//     Gaussian for Differential Privacy", NeurIPS 2020, on concentrated
//     differential privacy, in any dimension. So the sum of m honest clients
//     is as private as a Gaussian mechanism whose noise is √(mσ²/Bound) ≥
//     Multiplier times its sensitivity. More clients add independent noise,
//     which is post-processing.
//  3. Saturation (proven). Noised values are cut at the lane, on the client,
//     which is not post-processing of the sum. Lanes have room for Tail·σ
//     beyond every value, so that any of 2^36 values of 4096 clients in 2^20
//     rounds is cut with probability at most 2^68·2·exp(−Tail²/2) < 2^-80; a
//     mechanism that is never cut differs by no more in total variation.
//     [Slack] of the task's delta is set aside for it.
//
// Steps of the proof that live elsewhere, and what is argued only, are in
// docs/privacy.md.
//
// # Ownership
//
// Nothing is kept of the slices given.
package privacy

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Limits of a promise, each with its reason.
const (
	// MaxBits keeps the integers exact in a float32.
	MaxBits = 24
	// MinVariance is that of one client's noise, in squared steps: from there
	// on the sum's distance from a discrete Gaussian is negligible.
	MinVariance = 16
	// Slack is set aside of delta for saturation: (1 + e^ε)·2^-80 for every ε
	// up to MaxEpsilon. Delta is at least MinDelta.
	Slack      = 0x1p-40
	MinDelta   = 0x1p-30
	MaxEpsilon = 27
	// FailureLog2 is that of the probability that any of 2^36 values of any of
	// 4096 clients is cut in any of 2^20 rounds.
	FailureLog2 = -80
	// tail² = (14.5)² = 841/4: room for noise in a lane, in squares of σ.
	tailTimes, tailOver = 841, 4
)

// Promise is what a private task states and every client keeps.
type Promise struct {
	Clip       float64 // largest L2 norm of an update
	Multiplier float64 // noise of the sum over the largest influence of a client
	Delta      float64
	// Colluding clients may tell each other their noise, or add none, and the
	// promise still holds against them: noise is split over the others.
	Colluding uint32

	// What follows, in integers. A step is range/M.
	Steps    uint32 // clip norm in steps
	Bound    uint64 // largest squared norm of a rounded update, in steps²
	Variance uint64 // of one client's noise, in steps²
}

// Derive completes a promise for updates of so many values, sent with so many
// bits each, in cohorts of at least the given size.
func Derive(p Promise, bitsOf uint32, values int64, cohort uint32) (Promise, error) {
	if err := p.plain(bitsOf, cohort); err != nil {
		return p, err
	}
	half := halfOf(bitsOf)
	low, high := uint32(0), uint32(half) // low fits, high does not
	for low+1 < high {
		mid := low + (high-low)/2
		if q := p.with(mid, values, cohort); q.fits(half) {
			low = mid
		} else {
			high = mid
		}
	}
	if low == 0 {
		return p, fmt.Errorf("%d bits have no room for the noise of %d values: choose more bits (at most %d), a larger min_cohort or a smaller noise multiplier: %w",
			bitsOf, values, MaxBits, errs.ErrParameters)
	}
	return p.with(low, values, cohort), nil
}

// with completes a promise for a clip norm of c steps.
func (p Promise) with(c uint32, values int64, cohort uint32) Promise {
	p.Steps, p.Bound = c, roundedBound(c, values)
	need := new(big.Rat).SetFloat64(p.Multiplier)
	need.Mul(need, need).Mul(need, new(big.Rat).SetUint64(p.Bound))
	need.Quo(need, new(big.Rat).SetUint64(uint64(cohort-p.Colluding)))
	up := new(big.Int).Add(need.Num(), need.Denom())
	up.Sub(up, big.NewInt(1)).Quo(up, need.Denom())
	p.Variance = math.MaxUint64
	if up.IsUint64() {
		p.Variance = max(up.Uint64(), MinVariance)
	}
	return p
}

// roundedBound is the squared norm, in steps², that a rounded update of norm c
// exceeds with probability 2^-64 at most, and never when it is the second.
func roundedBound(c uint32, values int64) uint64 {
	d, n := float64(values), float64(c)
	likely := n*n + d/4 + math.Sqrt(2*64*math.Ln2)*(n+math.Sqrt(d)/2)
	always := (n + math.Sqrt(d)) * (n + math.Sqrt(d))
	return uint64(math.Ceil(math.Min(likely, always))) + 1
}

func halfOf(bitsOf uint32) int64 { return 1<<(bitsOf-1) - 1 }

// Tail is the magnitude, in steps, that one client's noise exceeds with
// probability 2·exp(−14.5²/2) at most.
func (p Promise) Tail() uint64 {
	want := p.Variance * tailTimes
	t := uint64(math.Sqrt(float64(want) / tailOver))
	for t > 0 && (t-1)*(t-1)*tailOver >= want {
		t--
	}
	for t*t*tailOver < want {
		t++
	}
	return t
}

// fits reports that a value of an update, rounded, and noise have room in
// ±half.
func (p Promise) fits(half int64) bool {
	return p.Variance < 1<<48 && uint64(p.Steps)+1+p.Tail() <= uint64(half)
}

// Range is that of every tensor: half steps, the clip norm being Steps.
func (p Promise) Range(bitsOf uint32) float32 {
	return float32(p.Clip * float64(halfOf(bitsOf)) / float64(p.Steps))
}

// Inflation is how much more noise the promise needs because updates are
// rounded: 1 with infinitely many bits.
func (p Promise) Inflation() float64 {
	return math.Sqrt(float64(p.Bound)) / float64(p.Steps)
}

// Noise is the standard deviation of the noise in every value of the sum over
// a cohort, in the unit of values.
func (p Promise) Noise(cohort uint32) float64 {
	return math.Sqrt(float64(p.Variance)*float64(cohort)) * p.Clip / float64(p.Steps)
}

// Distance bounds the max divergence, over all values and rounds, between the
// noise of a sum over m clients and a discrete Gaussian: its base 2 logarithm.
func (p Promise) Distance(values int64, rounds, cohort uint32) float64 {
	m := float64(cohort - p.Colluding)
	if m < 2 {
		return math.Inf(-1) // one discrete Gaussian is one
	}
	return math.Log2(10*m*float64(values)*float64(rounds)) - math.Pi*math.Pi*float64(p.Variance)/math.Ln2
}

// plain checks what an admin chooses.
func (p Promise) plain(bitsOf, cohort uint32) error {
	finite := func(x float64) bool { return x > 0 && x <= math.MaxFloat64 }
	for _, c := range []struct {
		ok   bool
		text string
	}{
		{bitsOf >= 4 && bitsOf <= MaxBits, fmt.Sprintf("with privacy a value has 4 to %d bits", MaxBits)},
		{finite(p.Clip), "the clip norm is a positive finite number"},
		{finite(p.Multiplier) && p.Multiplier >= 0.01 && p.Multiplier <= 1000, "the noise multiplier reaches from 0.01 to 1000"},
		{p.Delta >= MinDelta && p.Delta < 1, fmt.Sprintf("delta reaches from %.1e to below 1", float64(MinDelta))},
		{p.Colluding < cohort, "fewer clients may collude than min_cohort has"},
	} {
		if !c.ok {
			return fmt.Errorf("privacy: %s: %w", c.text, errs.ErrArgument)
		}
	}
	return nil
}

// Check refuses a promise whose integers do not keep it, or that does not fit
// tensors of the given range.
func (p Promise) Check(bitsOf, cohort uint32, tensorRange float32) error {
	if err := p.plain(bitsOf, cohort); err != nil {
		return err
	}
	hi, lo := bits.Mul64(uint64(p.Steps), uint64(p.Steps))
	have := new(big.Rat).SetUint64(p.Variance)
	have.Mul(have, new(big.Rat).SetUint64(uint64(cohort-p.Colluding)))
	need := new(big.Rat).SetFloat64(p.Multiplier)
	need.Mul(need, need).Mul(need, new(big.Rat).SetUint64(p.Bound))
	for _, c := range []struct {
		ok   bool
		text string
	}{
		{p.Steps >= 1 && hi == 0 && p.Bound > lo, "the norm's bound is below the clip norm"},
		{p.Variance >= MinVariance, fmt.Sprintf("one client's noise has a variance below %d", MinVariance)},
		{have.Cmp(need) >= 0, "the noise is less than the multiplier promises"},
		{p.fits(halfOf(bitsOf)), "values and noise have no room in a lane"},
		{tensorRange == p.Range(bitsOf) && tensorRange >= 0x1p-126 && tensorRange <= math.MaxFloat32, "ranges are not those that follow from the clip norm"},
	} {
		if !c.ok {
			return fmt.Errorf("privacy: %s: %w", c.text, errs.ErrParameters)
		}
	}
	return nil
}
