package rpc

import (
	"bytes"
	"testing"

	"github.com/cryptflow/cryptflow/go/identity"
)

// TestBuffersOfKeyServicesAreCleared: what one message of a connection with
// the key service held is not in the buffer of the next.
func TestBuffersOfKeyServicesAreCleared(t *testing.T) {
	for _, size := range []int{100, 4 << 10, 72 << 10, 288 << 10, 1 << 20} {
		for range 100 {
			p := pool(identity.KMS)
			b := p.Get(size)
			if n := bytes.IndexByte(*b, 0xa5); n >= 0 {
				t.Fatalf("a buffer of %d bytes holds what an earlier one held, at %d", size, n)
			}
			for i := range *b {
				(*b)[i] = 0xa5
			}
			p.Put(b)
		}
	}
}
