package buffers

import "testing"

func TestBuffersHaveTheLengthAskedFor(t *testing.T) {
	for _, n := range []int{0, 1, 4 << 10, 4<<10 + 1, 256 << 10, 1 << 20, sizes[len(sizes)-1], 8 << 20} {
		for range 3 {
			b := Pool.Get(n)
			if len(*b) != n {
				t.Fatalf("%d bytes, asked for %d", len(*b), n)
			}
			*b = (*b)[:n/2] // a holder may shorten it
			Pool.Put(b)
		}
	}
}

func TestABufferIsOneHoldersAtATime(t *testing.T) {
	var p pool
	a, b := p.Get(100), p.Get(100)
	if &(*a)[0] == &(*b)[0] {
		t.Fatal("two holders have one buffer")
	}
	foreign := make([]byte, 100)
	p.Put(&foreign)
	for range 4 {
		if got := p.Get(100); cap(*got) != sizes[0] {
			t.Fatalf("a buffer of %d bytes came from outside", cap(*got))
		}
	}
}

func TestWarmBuffersAreNotAllocated(t *testing.T) {
	for _, size := range sizes {
		Pool.Put(Pool.Get(size))
		if n := testing.AllocsPerRun(100, func() { Pool.Put(Pool.Get(size)) }); n >= 1 {
			t.Errorf("%g allocations for %d bytes", n, size)
		}
	}
}
