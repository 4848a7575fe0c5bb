package merkle_test

import (
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/cryptflow/cryptflow/go/merkle"
)

// hashes is an in-memory tlog.HashReader.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = h[x]
	}
	return out, nil
}

// TestHeadsAreThoseOfRFC6962 compares with x/mod's transparency log.
func TestHeadsAreThoseOfRFC6962(t *testing.T) {
	var tree merkle.Tree
	var stored hashes
	seen := map[merkle.Hash]bool{tree.Root(): true}
	for n := int64(0); n < 130; n++ {
		record := fmt.Appendf(nil, "frame %d", n)
		if got, want := merkle.Leaf(record), merkle.Hash(tlog.RecordHash(record)); got != want {
			t.Fatalf("leaf %d: %x, want %x", n, got, want)
		}
		tree.Append(merkle.Leaf(record))
		more, err := tlog.StoredHashes(n, record, stored)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		want, err := tlog.TreeHash(n+1, stored)
		if err != nil {
			t.Fatal(err)
		}
		if got := tree.Head(); got != merkle.Hash(want) {
			t.Fatalf("head of %d leaves: %x, want %x", n+1, got, want)
		}
		if tree.Count() != uint64(n+1) {
			t.Fatalf("count %d after %d leaves", tree.Count(), n+1)
		}
		if seen[tree.Root()] {
			t.Fatalf("root of %d leaves seen before", n+1)
		}
		seen[tree.Root()] = true
	}
}
