package tag_test

import (
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/tag"
	"github.com/cryptflow/cryptflow/go/timing"
)

// TestTimingOfTags reports whether the time of a tag depends on the key or on
// the values (make timing). Printed, asserted nowhere.
func TestTimingOfTags(t *testing.T) {
	n, err := timing.Wanted()
	if err != nil {
		t.Fatal(err)
	}
	const degree, lanes, width = 4096, 4, 22
	rng := rand.New(rand.NewPCG(5, 5))
	words := [][]uint64{make([]uint64, degree), make([]uint64, degree)}
	var h *tag.Hasher
	var sink uint64
	key := func(random bool) {
		var k tag.Key
		for i := range k {
			if k[i] = byte(rng.Uint32()); !random {
				k[i] = 9
			}
		}
		h = tag.New(k, degree, 2, lanes, width)
	}
	// Both classes read and write the same memory: what one alone leaves in the
	// caches would be measured as well.
	drawn := [2][]uint64{make([]uint64, degree), make([]uint64, degree)}
	values := func(random bool) {
		mask := uint64(0) // zeros are the fixed values
		if random {
			mask = ^mask
		}
		for i := range degree {
			drawn[0][i], drawn[1][i] = rng.Uint64(), rng.Uint64()>>(128-lanes*width)
		}
		for w := range words {
			for i := range words[w] {
				words[w][i] = drawn[w][i] & mask
			}
		}
	}
	key(false)
	fixed := h
	cases := []timing.Case{
		{Name: "tag of a chunk, fixed and random values", Prepare: func(random bool) { values(random); h = fixed }, Run: func() { sink += h.Chunk(1, words, degree) }},
		{Name: "tag of a chunk, fixed and random keys", Prepare: func(random bool) { key(random); values(true) }, Run: func() { sink += h.Chunk(1, words, degree) }},
	}
	results, table := timing.Run(n, cases)
	if len(results) != len(cases) {
		t.Errorf("%d of %d cases were measured", len(results), len(cases))
	}
	t.Logf("tags of %d coefficients, of which the last is %d\n%s", degree, sink, table)
}
