// Package spread shares independent pieces of work between cores.
package spread

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Over does the pieces 0 ≤ k < n on some goroutines, the caller's among them.
// Each has a number of its own, below goroutines, and takes the next piece
// that nobody has begun. Nothing is begun after a failure or the end of the
// context. The error is that of the first piece that failed; a panic, where
// nobody else would recover it, is ErrPanic.
func Over(ctx context.Context, goroutines, n int, do func(worker, k int) error) error {
	if n <= 0 {
		return nil
	}
	failures := make([]error, n)
	var next atomic.Int64
	var failed atomic.Bool
	one := func(worker, k int) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("piece %d of the work panicked: %w", k, errs.ErrPanic)
			}
		}()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return do(worker, k)
	}
	work := func(worker int) {
		for !failed.Load() {
			k := int(next.Add(1)) - 1
			if k >= n {
				return
			}
			if failures[k] = one(worker, k); failures[k] != nil {
				failed.Store(true)
			}
		}
	}
	var wg sync.WaitGroup
	for worker := 1; worker < min(goroutines, n); worker++ {
		wg.Go(func() { work(worker) })
	}
	work(0)
	wg.Wait()
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}
