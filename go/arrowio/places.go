package arrowio

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
)

// places are for the streams that are served at once. A stream holds one only
// while it moves: when others wait, the place of a stream that stands still is
// taken back, and one that had its share gives it up between two messages.
// Whoever had least of the service's time goes first, so that no number of
// streams of one caller delays another.
type places struct {
	size     int
	patience time.Duration // how long a place may stand still; 0: for ever

	mu    sync.Mutex
	taken map[*seat]struct{}
	slow  map[*seat]struct{} // lost their place within a message, and go on with it
	queue []*seat            // in the order in which they came
	spent map[string]time.Duration
	aged  time.Time
}

const (
	// slowSeats is how many streams for each place may be within a message
	// without one. One more, and the one that stands still longest is ended
	// when that is long.
	slowSeats = 4
	veryLong  = 5 * time.Second
	// halfLife is how long it takes until half of a caller's share is forgotten.
	halfLife = time.Minute
)

func newPlaces(size int, patience time.Duration) *places {
	return &places{size: size, patience: patience, taken: map[*seat]struct{}{}, slow: map[*seat]struct{}{},
		spent: map[string]time.Duration{}}
}

// seat is one stream's claim to a place.
type seat struct {
	p     *places
	who   string
	since time.Time // it has its place
	moved time.Time // last progress
	ready chan struct{}
	cut   chan struct{} // closed when the stream must end
	once  sync.Once
	waits bool
}

func (p *places) join(who string) *seat {
	return &seat{p: p, who: who, ready: make(chan struct{}, 1), cut: make(chan struct{})}
}

// end has the stream ended.
func (s *seat) end() { s.once.Do(func() { close(s.cut) }) }

// leave gives up the place, or the claim to one.
func (s *seat) leave() {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	now := time.Now()
	s.p.remove(s)
	s.p.release(s, now)
	delete(s.p.slow, s)
	s.p.assign(now)
}

// turn returns once the stream has a place. It is called before every message.
func (s *seat) turn(ctx context.Context) error {
	p := s.p
	p.mu.Lock()
	now := time.Now()
	delete(p.slow, s)
	if _, has := p.taken[s]; has {
		s.moved = now
		if !p.gives(s, now) {
			p.mu.Unlock()
			return nil
		}
		p.release(s, now)
	}
	s.waits = true
	p.queue = append(p.queue, s)
	p.assign(now)
	p.mu.Unlock()
	var look <-chan time.Time
	if p.patience > 0 {
		tick := time.NewTicker(p.patience)
		defer tick.Stop()
		look = tick.C
	}
	for {
		select {
		case <-s.ready:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("waiting to be served: %w: %w", context.Cause(ctx), errs.ErrCancelled)
		case <-look:
			p.mu.Lock()
			p.reclaim(time.Now())
			p.mu.Unlock()
		}
	}
}

// waiting says that the stream stands still because it has no place.
func (s *seat) waiting() bool {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	return s.waits
}

// What follows is called with the lock held.

// gives says whether a stream with a place had its share while somebody waits
// who had less.
func (p *places) gives(s *seat, now time.Time) bool {
	held := now.Sub(s.since)
	if p.patience == 0 || held < p.patience {
		return false
	}
	for _, x := range p.queue {
		if p.spent[x.who] < p.spent[s.who]+held {
			return true
		}
	}
	return false
}

func (p *places) release(s *seat, now time.Time) {
	if _, has := p.taken[s]; !has {
		return
	}
	delete(p.taken, s)
	p.spent[s.who] += now.Sub(s.since)
	if now.Sub(p.aged) < halfLife {
		return
	}
	p.aged = now
	for who, d := range p.spent {
		if p.spent[who] = d / 2; d < time.Millisecond {
			delete(p.spent, who)
		}
	}
}

func (p *places) remove(s *seat) {
	for i, x := range p.queue {
		if x == s {
			p.queue = append(p.queue[:i], p.queue[i+1:]...)
			break
		}
	}
	s.waits = false
}

// assign gives free places to those who had least.
func (p *places) assign(now time.Time) {
	for len(p.taken) < p.size && len(p.queue) > 0 {
		next := p.queue[0]
		for _, x := range p.queue {
			if p.spent[x.who] < p.spent[next.who] {
				next = x
			}
		}
		p.remove(next)
		p.taken[next] = struct{}{}
		next.since, next.moved = now, now
		next.ready <- struct{}{}
	}
}

// reclaim takes places back from streams that stand still: first from the
// caller that has most of them.
func (p *places) reclaim(now time.Time) {
	for len(p.queue) > 0 {
		holds := map[string]int{}
		for s := range p.taken {
			holds[s.who]++
		}
		var worst *seat
		for s := range p.taken {
			if now.Sub(s.moved) < p.patience {
				continue
			}
			if worst == nil || holds[s.who] > holds[worst.who] ||
				holds[s.who] == holds[worst.who] && s.moved.Before(worst.moved) {
				worst = s
			}
		}
		if worst == nil {
			break
		}
		p.release(worst, now)
		p.slow[worst] = struct{}{}
		p.assign(now)
	}
	p.endSlowest(now)
}

func (p *places) endSlowest(now time.Time) {
	for len(p.slow) > slowSeats*p.size {
		var worst *seat
		for s := range p.slow {
			if worst == nil || s.moved.Before(worst.moved) {
				worst = s
			}
		}
		if now.Sub(worst.moved) < veryLong {
			return
		}
		delete(p.slow, worst)
		worst.end()
	}
}
