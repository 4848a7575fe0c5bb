package service

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Limits of a log: no caller can fill a disk with it.
const (
	maxLogValue = 256     // bytes of one value
	maxStack    = 4 << 10 // bytes of a stack
	maxAlike    = 10      // lines of one kind in a minute
	maxKinds    = 256     // kinds that are told apart
)

// quiet is a log that cuts long values and writes of lines that are alike, of
// one method, caller and code, no more than some in a minute; a later line
// says how many there were.
type quiet struct {
	slog.Handler
	all *alike
}

// alike counts lines by their kind. Handlers that share a log share it.
type alike struct {
	mu    sync.Mutex
	kinds map[string]*kind
}

// kind is one kind of line in the current minute.
type kind struct {
	began   time.Time
	written int
	left    int         // out
	last    slog.Record // left out
}

func newQuiet(h slog.Handler) *quiet { return &quiet{h, &alike{kinds: map[string]*kind{}}} }

// told are the attributes that tell kinds of lines apart.
var told = map[string]bool{"method": true, "caller": true, "code": true, "task": true}

// Handle writes a line or counts it. What a service says of itself, below a
// warning, is always written.
func (q *quiet) Handle(ctx context.Context, r slog.Record) error {
	cut := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	name := r.Message
	r.Attrs(func(a slog.Attr) bool {
		a.Value = a.Value.Resolve()
		limit := maxLogValue
		if a.Key == "stack" {
			limit = maxStack
		}
		if s := a.Value.String(); a.Value.Kind() != slog.KindGroup && len(s) > limit {
			a = slog.String(a.Key, fmt.Sprintf("%s… (%d bytes)", s[:limit], len(s)))
		}
		if told[a.Key] {
			name += "\x00" + a.Value.String()
		}
		cut.AddAttrs(a)
		return true
	})
	if r.Level < slog.LevelWarn && r.Message != "refused" {
		return q.Handler.Handle(ctx, cut)
	}
	write, before := q.all.count(name, cut)
	if before != nil {
		if err := q.Handler.Handle(ctx, *before); err != nil {
			return err
		}
	}
	if !write {
		return nil
	}
	return q.Handler.Handle(ctx, cut)
}

// count says whether a line is written, and which line tells of those before.
func (a *alike) count(name string, r slog.Record) (write bool, before *slog.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.kinds[name]
	if k == nil {
		if len(a.kinds) >= maxKinds {
			name = r.Message // what is one too many is counted together
		}
		if k = a.kinds[name]; k == nil {
			k = &kind{began: r.Time}
			a.kinds[name] = k
		}
	}
	if r.Time.Sub(k.began) >= time.Minute {
		before = k.rest()
		*k = kind{began: r.Time}
	}
	if k.written < maxAlike {
		k.written++
		return true, before
	}
	k.left++
	k.last = r
	return false, before
}

// rest is the line that tells how many were left out; nil when none was.
func (k *kind) rest() *slog.Record {
	if k.left == 0 {
		return nil
	}
	r := slog.NewRecord(k.last.Time, k.last.Level, fmt.Sprintf("… and %d more like it in the last minute", k.left),
		k.last.PC)
	r.AddAttrs(slog.String("like", k.last.Message))
	k.last.Attrs(func(a slog.Attr) bool {
		r.AddAttrs(a)
		return true
	})
	return &r
}

// flush tells of the lines that were left out of minutes that are over, and
// forgets their kinds.
func (q *quiet) flush(now time.Time) {
	q.all.mu.Lock()
	var lines []slog.Record
	for name, k := range q.all.kinds {
		if now.Sub(k.began) < time.Minute {
			continue
		}
		if r := k.rest(); r != nil {
			lines = append(lines, *r)
		}
		delete(q.all.kinds, name)
	}
	q.all.mu.Unlock()
	for _, r := range lines {
		_ = q.Handler.Handle(context.Background(), r) // as slog itself does
	}
}

// WithAttrs implements slog.Handler.
func (q *quiet) WithAttrs(a []slog.Attr) slog.Handler { return &quiet{q.Handler.WithAttrs(a), q.all} }

// WithGroup implements slog.Handler.
func (q *quiet) WithGroup(name string) slog.Handler { return &quiet{q.Handler.WithGroup(name), q.all} }
