package main

import (
	"context"
	"math"
	"runtime"

	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/seal"
)

// allocations counts, by kind of work, what one more chunk allocates once
// everything is warm: the difference between all chunks and none, divided.
func (b *bench) allocations() (map[string]float64, error) {
	runtime.GOMAXPROCS(1)
	sealer, err := seal.NewSealer(b.round, secretsOf(0), b.update, 1, 1, seal.From(client))
	if err != nil {
		return nil, err
	}
	opener, err := seal.NewOpener(b.round, b.release, 1)
	if err != nil {
		return nil, err
	}
	last := len(b.result) - 1
	if _, err := opener.OpenControl(b.result[last]); err != nil {
		return nil, err
	}
	g, acc, ctx := b.round.Geometry(), fold.New(b.round.Scheme.Preset), context.Background()
	drop := func(int, []byte) error { return nil }
	kinds := map[string]func(chunks int) error{
		"encrypt": func(chunks int) error { return sealer.Seal(ctx, 0, chunks, drop) },
		"fold": func(chunks int) error {
			for k := range chunks {
				if err := b.add(acc, k); err != nil {
					return err
				}
			}
			return nil
		},
		"decrypt": func(chunks int) error {
			_, end := g.Span(chunks - 1)
			return opener.OpenRange(ctx, 0, b.result[:chunks], b.mean[:end])
		},
	}
	out := map[string]float64{}
	for what, do := range kinds {
		out[what] = 0
		if last > 1 {
			if out[what], err = slope(do, last); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// slope is what each chunk after the first allocates, the least of a few
// tries: the runtime allocates now and then for itself.
func slope(do func(chunks int) error, chunks int) (float64, error) {
	least := math.Inf(1)
	for range 6 { // the first warms up
		one, err := mallocs(do, 1)
		if err != nil {
			return 0, err
		}
		all, err := mallocs(do, chunks)
		if err != nil {
			return 0, err
		}
		least = min(least, (all-one)/float64(chunks-1))
	}
	return max(least, 0), nil
}

func mallocs(do func(chunks int) error, chunks int) (float64, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := do(chunks)
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs - before.Mallocs), err
}
