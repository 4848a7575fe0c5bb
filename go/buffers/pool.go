// Package buffers recycles the memory of messages in flight, so that streams
// of them leave nothing to collect.
//
// # Security
//
// A buffer that is taken holds what it held before: whoever takes it writes
// all of it, or shortens it to what was written. What passes through are
// frames and the bytes of connections with the aggregator, never keys: package
// rpc gives connections with the key service another pool.
package buffers

import (
	"sync"

	"google.golang.org/grpc/mem"
)

// Pool recycles. gRPC's own pools clear every buffer to its capacity whenever
// it is taken, which costs more than what travels in it.
var Pool mem.BufferPool = &pool{}

// sizes are those of HTTP/2 frames, of a connection's writes, of batches of
// 256 KiB with what describes them, and of the largest message.
var sizes = [...]int{4 << 10, 16 << 10, 72 << 10, 288 << 10, 1<<20 + 64<<10}

type pool struct{ classes [len(sizes)]sync.Pool }

// Get returns a buffer of n bytes of any content.
func (p *pool) Get(n int) *[]byte {
	for i, size := range sizes {
		if n > size {
			continue
		}
		if b, ok := p.classes[i].Get().(*[]byte); ok {
			*b = (*b)[:n]
			return b
		}
		b := make([]byte, n, size)
		return &b
	}
	b := make([]byte, n)
	return &b
}

// Put takes back a buffer that nobody uses any more. Others than those of Get
// are left to the collector.
func (p *pool) Put(b *[]byte) {
	for i, size := range sizes {
		if cap(*b) == size {
			p.classes[i].Put(b)
			return
		}
	}
}
