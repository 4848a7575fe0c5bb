package seal

import (
	"context"
	"slices"
	"sync"
)

// depth is how many frames of a worker may wait for their turn to be emitted.
// With few of them workers wait for each other, and every wait puts a core to
// sleep.
const depth = 4

// sealData is Seal of data chunks. Nobody hands frames over: a worker that has
// filled one emits it, and those after it that wait, unless another worker is
// emitting. So no core sleeps while there is a frame to fill.
func (s *Sealer) sealData(ctx context.Context, from, to int, emit func(index int, frame []byte) error) error {
	q := &queue{Sealer: s, emit: emit, next: from, head: from, to: to, filled: make(map[int]*slot)}
	q.free.L = &q.mu
	var wg sync.WaitGroup
	for k := 1; k < min(len(s.workers), to-from); k++ {
		wg.Go(func() { q.work(ctx, s.worker(k)) })
	}
	q.work(ctx, s.worker(0))
	wg.Wait()
	return q.err
}

// queue is what the workers of one sealData share.
type queue struct {
	*Sealer
	emit func(index int, frame []byte) error

	mu       sync.Mutex
	free     sync.Cond // a slot was emitted, or err is set
	next     int       // the first frame that nobody has begun
	head     int       // the first that was not emitted
	to       int
	filled   map[int]*slot // what waits for its turn
	emitting bool
	err      error // the first that happened
}

// work fills frames on one core until there are no more.
func (q *queue) work(ctx context.Context, w *sealWorker) {
	w.rooms(q.geometry)
	for k := range w.slots {
		w.slots[k].busy = false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && q.next < q.to {
		if ctx.Err() != nil {
			q.fail(context.Cause(ctx))
			return
		}
		k := slices.IndexFunc(w.slots[:], func(f slot) bool { return !f.busy })
		if k < 0 {
			q.free.Wait()
			continue
		}
		f, index := &w.slots[k], q.next
		q.next++
		f.busy = true
		q.mu.Unlock()
		w.fill(f, q.Sealer, index)
		q.mu.Lock()
		q.filled[index] = f
		q.drain(ctx)
	}
}

// drain emits what is ready, in order. It is called with the lock, which it
// lets go while emit runs.
func (q *queue) drain(ctx context.Context) {
	if q.emitting {
		return
	}
	q.emitting = true
	for f := q.filled[q.head]; f != nil && q.err == nil; f = q.filled[q.head] {
		index := q.head
		delete(q.filled, index)
		q.mu.Unlock()
		err := context.Cause(ctx)
		if err == nil {
			err = q.deliver(index, f, q.emit)
		}
		q.mu.Lock()
		q.head++
		f.busy = false
		q.free.Broadcast()
		if err != nil {
			q.fail(err)
		}
	}
	q.emitting = false
}

// fail ends the work of all; it is called with the lock.
func (q *queue) fail(err error) {
	if q.err == nil {
		q.err = err
	}
	q.free.Broadcast()
}
