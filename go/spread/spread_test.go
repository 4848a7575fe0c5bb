package spread_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/spread"
)

func TestEveryPieceIsDoneOnce(t *testing.T) {
	for goroutines := range 5 {
		for _, n := range []int{-1, 0, 1, 2, 3, 100} {
			done := make([]atomic.Int32, max(n, 0))
			busy := make([]atomic.Bool, max(goroutines, 1))
			err := spread.Over(t.Context(), goroutines, n, func(worker, k int) error {
				if busy[worker].Swap(true) {
					return fmt.Errorf("worker %d does two pieces at once", worker)
				}
				done[k].Add(1)
				busy[worker].Store(false)
				return nil
			})
			if err != nil {
				t.Errorf("%d goroutines, %d pieces: %v", goroutines, n, err)
			}
			for k := range done {
				if times := done[k].Load(); times != 1 {
					t.Errorf("%d goroutines: piece %d of %d was done %d times", goroutines, k, n, times)
				}
			}
		}
	}
}

func TestTheFirstFailureIsTheError(t *testing.T) {
	for _, goroutines := range []int{1, 2, 7} {
		err := spread.Over(t.Context(), goroutines, 50, func(_, k int) error {
			if k >= 20 {
				return fmt.Errorf("piece %d", k)
			}
			return nil
		})
		if err == nil || err.Error() != "piece 20" {
			t.Errorf("%d goroutines: %v", goroutines, err)
		}
	}
}

func TestAPanicIsAnError(t *testing.T) {
	err := spread.Over(t.Context(), 3, 9, func(_, k int) error {
		if k == 4 {
			panic("secret")
		}
		return nil
	})
	if !errors.Is(err, errs.ErrPanic) || err.Error() != "piece 4 of the work panicked: "+errs.ErrPanic.Error() {
		t.Error(err)
	}
}

func TestTheContextEndsTheWork(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason, begun := errors.New("enough"), atomic.Int32{}
	err := spread.Over(ctx, 2, 1000, func(int, int) error {
		begun.Add(1)
		cancel(reason)
		return nil
	})
	if !errors.Is(err, reason) || begun.Load() > 2 {
		t.Errorf("%d pieces, then %v", begun.Load(), err)
	}
}
