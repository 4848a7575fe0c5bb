package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/cryptflow/cryptflow/go/errs"
)

// patience is one stretch of work during which services may come and go. It
// ends when nothing has moved for too long, not after a time in all.
type patience struct {
	limit time.Duration
	moved time.Time
	pause *backoff.ExponentialBackOff
}

func (x *Client) patience() *patience {
	p := &patience{limit: x.c.Patience, moved: time.Now(), pause: backoff.NewExponentialBackOff()}
	p.pause.InitialInterval, p.pause.MaxInterval = 100*time.Millisecond, 3*time.Second
	return p
}

// progress starts the patience anew.
func (p *patience) progress() {
	p.moved = time.Now()
	p.pause.Reset()
}

// Waiting is told why something is tried again, for how long nothing has moved,
// and after how long it is given up.
type Waiting func(err error, since, limit time.Duration)

type waitingKey struct{}

// WithWaiting has w called by what is done with the context, from any goroutine.
func WithWaiting(ctx context.Context, w Waiting) context.Context {
	return context.WithValue(ctx, waitingKey{}, w)
}

// again says whether what failed may be tried again, after a pause. It returns
// the error to give up with, or nil.
func (p *patience) again(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", errs.ErrCancelled, context.Cause(ctx))
	}
	if !passing(err) || time.Since(p.moved) > p.limit {
		return err
	}
	if w, ok := ctx.Value(waitingKey{}).(Waiting); ok {
		w(err, time.Since(p.moved), p.limit)
	}
	timer := time.NewTimer(p.pause.NextBackOff())
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errs.ErrCancelled, context.Cause(ctx))
	case <-timer.C:
		return nil
	}
}

// passing reports whether an error may go away by itself.
func passing(err error) bool {
	return errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrTimeout) || errors.Is(err, errs.ErrUpload)
}

// patiently repeats what only reads, or does nothing when done twice, until it
// succeeds or fails for good.
func (x *Client) patiently(ctx context.Context, call func() error) error {
	p := x.patience()
	for {
		err := call()
		if err == nil {
			return nil
		}
		if end := p.again(ctx, err); end != nil {
			return end
		}
	}
}
