package privacy

import (
	"crypto/rand"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/cryptflow/cryptflow/go/errs"
)

// block is how many values are treated at a time.
const block = 1 << 12

// shy keeps the float64 norm of a clipped update below its clip norm, whatever
// the sum's rounding errors were.
const shy = 1 - 0x1p-30

// Apply returns the update that is sent in the place of values: clipped to the
// promise's norm, rounded to steps, with noise, each value a multiple of the
// step that nearest rounding to the task's bits gives back exactly. Bits come
// from the system's generator. It returns ErrNotFinite for NaN or an infinity.
//
// Two calls draw two noises: a result is sent once.
func (p Promise) Apply(values []float32, bitsOf uint32, threads int) ([]float32, error) {
	return p.apply(values, bitsOf, threads, rand.Reader)
}

func (p Promise) apply(values []float32, bitsOf uint32, threads int, random io.Reader) ([]float32, error) {
	norm := math.Sqrt(squares(values, threads))
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return nil, fmt.Errorf("an update with NaN or an infinity: %w", errs.ErrNotFinite)
	}
	half := halfOf(bitsOf)
	scale := float64(half) / float64(p.Range(bitsOf))
	if norm*scale > float64(p.Steps)*shy {
		scale = float64(p.Steps) * shy / norm
	}
	out := make([]float32, len(values))
	if err := p.round(out, values, scale, threads, random); err != nil {
		return nil, err
	}
	step := float64(p.Range(bitsOf)) / float64(half)
	err := spread(len(out), threads, func(from, to int) error {
		g, noise := NewGaussian(p.Variance, random), make([]int64, block)
		defer clear(noise)
		for ; from < to; from += block {
			part := out[from:min(to, from+block)]
			if err := g.Fill(noise[:len(part)]); err != nil {
				return fmt.Errorf("drawing noise: %v: %w", err, errs.ErrInternal)
			}
			for i, y := range part {
				v := max(-half, min(half, int64(y)+noise[i]))
				part[i] = float32(float64(v) * step)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// round writes scaled values as integers whose squares sum to Bound at most:
// stochastically, or towards zero where that exceeds the bound.
func (p Promise) round(out, values []float32, scale float64, threads int, random io.Reader) error {
	err := spread(len(out), threads, func(from, to int) error {
		w := &words{from: random}
		for i := from; i < to; i++ {
			u := float64(w.next()>>11) * 0x1p-53
			out[i] = float32(math.Floor(float64(float64(values[i])*scale) + u))
		}
		if w.err != nil {
			return fmt.Errorf("drawing a rounding: %v: %w", w.err, errs.ErrInternal)
		}
		return nil
	})
	if err != nil || p.kept(out, threads) {
		return err
	}
	for i, x := range values {
		out[i] = float32(math.Trunc(float64(x) * scale))
	}
	if !p.kept(out, threads) {
		return fmt.Errorf("a clipped update exceeds its bound: %w", errs.ErrInternal)
	}
	return nil
}

// kept reports that the squares of integers sum to Bound at most. Every sum
// here is below 2^63: magnitudes are at most 2^23, and so is the norm but for
// rounding.
func (p Promise) kept(out []float32, threads int) bool {
	var mu sync.Mutex
	sum := uint64(0)
	_ = spread(len(out), threads, func(from, to int) error {
		part := uint64(0)
		for _, x := range out[from:to] {
			part += uint64(int64(x) * int64(x))
		}
		mu.Lock()
		sum += part
		mu.Unlock()
		return nil
	}) // the function returns no error
	return sum <= p.Bound
}

// squares sums those of values, in blocks, so that errors hardly grow with
// their number.
func squares(values []float32, threads int) float64 {
	var mu sync.Mutex
	sum := 0.0
	_ = spread(len(values), threads, func(from, to int) error {
		parts := 0.0
		for ; from < to; from += block {
			part := 0.0
			for _, x := range values[from:min(to, from+block)] {
				part += float64(x) * float64(x)
			}
			parts += part
		}
		mu.Lock()
		sum += parts
		mu.Unlock()
		return nil
	}) // the function returns no error
	return sum
}

// spread runs f over [0, n) in one contiguous part a thread.
func spread(n, threads int, f func(from, to int) error) error {
	threads = max(1, min(threads, n/block))
	failures := make([]error, threads)
	var wg sync.WaitGroup
	for k := range threads {
		wg.Go(func() { failures[k] = f(n*k/threads, n*(k+1)/threads) })
	}
	wg.Wait()
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}
