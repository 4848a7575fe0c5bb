//go:build cgo

package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/errs"
)

// op is work that goes on in the background while Python polls, so that
// Ctrl-C, progress and threads behave.
type op struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	progress map[client.Phase][2]int64
	phase    client.Phase
	waiting  *waiting // what was last tried again
	value    any
	array    *arrowio.Float32
	err      error
}

// close gives up the work and waits for it: nothing of it outlives its handle.
func (o *op) close() {
	o.cancel()
	<-o.done
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.array != nil {
		o.array.Release()
		o.array = nil
	}
}

func (o *op) report(phase client.Phase, done, total int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.phase, o.progress[phase] = phase, [2]int64{done, total}
}

// waiting is why an operation waits for a service.
type waiting struct {
	Tries   int     `json:"tries"`   // of the operation so far
	Error   string  `json:"error"`   // of the last one
	Seconds float64 `json:"seconds"` // since anything moved
	Limit   float64 `json:"limit"`   // of those
}

func (o *op) wait(err error, since, limit time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting == nil {
		o.waiting = &waiting{}
	}
	o.waiting.Tries++
	o.waiting.Error, o.waiting.Seconds, o.waiting.Limit = errs.Format(err), since.Seconds(), limit.Seconds()
}

// begin runs work in the background. What it returns as value crosses as JSON.
func begin(work func(ctx context.Context, o *op) (any, error)) int64 {
	ctx, cancel := context.WithCancel(context.Background())
	o := &op{cancel: cancel, done: make(chan struct{}), progress: map[client.Phase][2]int64{}}
	ctx = client.WithWaiting(ctx, o.wait)
	go func() {
		defer close(o.done)
		defer cancel()
		value, err := guardRaw(func() (any, error) { return work(ctx, o) })
		o.mu.Lock()
		o.value, o.err = value, err
		o.mu.Unlock()
	}()
	return store(o)
}

// guardRaw keeps a panic of a goroutine from ending the interpreter.
func guardRaw(body func() (any, error)) (out any, err error) {
	defer func() {
		if r := recover(); r != nil {
			poisoned.Store(true)
			err = fmt.Errorf("%v: %w", r, errs.ErrPanic)
		}
	}()
	if out, err = body(); errors.Is(err, errs.ErrPanic) {
		poisoned.Store(true)
	}
	return out, err
}

// maxPoll bounds how long one call keeps Python waiting.
const maxPoll = 100

// OpPoll waits up to so many milliseconds for an operation and says as JSON
// how far it is: done, phase, progress by phase as [done, total], and at the
// end its value. A failed operation's error is returned here.
func OpPoll(handle, milliseconds int64) (string, error) {
	return guard(func() (string, error) {
		o, err := lookup[*op](handle)
		if err != nil {
			return "", err
		}
		timer := time.NewTimer(time.Duration(max(0, min(milliseconds, maxPoll))) * time.Millisecond)
		defer timer.Stop()
		finished := false
		select {
		case <-o.done:
			finished = true
		case <-timer.C:
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if finished && o.err != nil {
			return "", o.err
		}
		answer := map[string]any{"done": finished, "phase": o.phase, "progress": o.progress}
		if o.waiting != nil {
			answer["waiting"] = o.waiting
		}
		if finished {
			answer["value"] = o.value
		}
		b, err := json.Marshal(answer)
		return string(b), err
	})
}

// OpCancel asks an operation to end; it does so within milliseconds, and
// OpPoll then returns an error.
func OpCancel(handle int64) (int64, error) {
	return guard(func() (int64, error) {
		o, err := lookup[*op](handle)
		if err != nil {
			return 0, err
		}
		o.cancel()
		return 1, nil
	})
}

// OpTake moves the array of a finished operation to the output structs and
// returns its length.
func OpTake(handle int64, outArr, outSch uintptr) (int64, error) {
	return guard(func() (int64, error) {
		o, err := lookup[*op](handle)
		if err != nil {
			return 0, err
		}
		select {
		case <-o.done:
		default:
			return 0, fmt.Errorf("the operation is not done: %w", errs.ErrState)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.array == nil {
			return 0, fmt.Errorf("the operation has no array, or it was taken: %w", errs.ErrState)
		}
		n := o.array.Len()
		if err := arrowio.Export(o.array, outArr, outSch); err != nil {
			return 0, err
		}
		o.array.Release()
		o.array = nil
		return int64(n), nil
	})
}
