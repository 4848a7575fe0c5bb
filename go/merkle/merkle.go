// Package merkle builds the hash trees over frames whose roots stand in
// manifests, receipts and results: RFC 6962 trees of SHA-256, leaf prefix 0x00
// and node prefix 0x01.
//
// # Security
//
// A root of this package binds the number of leaves as well as their bytes
// and order.
//
// # Compatibility
//
// docs/spec.md describes roots byte for byte.
package merkle

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// Hash is a SHA-256 digest.
type Hash = [sha256.Size]byte

const tagRoot = "cryptflow/v1/root"

// Leaf is H(0x00 ‖ b).
func Leaf(b []byte) Hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(b)
	return Hash(h.Sum(nil))
}

// node is H(0x01 ‖ l ‖ r).
func node(l, r Hash) Hash {
	var b [1 + 2*sha256.Size]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[1+sha256.Size:], r[:])
	return sha256.Sum256(b[:])
}

// Tree is a tree that grows leaf by leaf and keeps only the roots of its
// complete subtrees. The zero value is an empty tree.
type Tree struct {
	complete []Hash // largest subtree first; their sizes are count's bits
	count    uint64
}

// Append adds a leaf.
func (t *Tree) Append(leaf Hash) {
	t.complete = append(t.complete, leaf)
	t.count++
	for n := t.count; n&1 == 0; n >>= 1 {
		k := len(t.complete)
		t.complete[k-2] = node(t.complete[k-2], t.complete[k-1])
		t.complete = t.complete[:k-1]
	}
}

// Complete are the roots of the complete subtrees, the largest first: one for
// each bit of the count.
func (t *Tree) Complete() []Hash { return slices.Clone(t.complete) }

// Resume is a tree of count leaves of which only the roots of the complete
// subtrees are known, one for each bit of the count.
func Resume(complete []Hash, count uint64) Tree {
	return Tree{complete: slices.Clone(complete), count: count}
}

// Clone is a tree that grows by itself.
func (t *Tree) Clone() Tree { return Resume(t.complete, t.count) }

// Count is the number of leaves.
func (t *Tree) Count() uint64 { return t.count }

// Head is the RFC 6962 tree head: the hash of nothing for an empty tree.
func (t *Tree) Head() Hash {
	if t.count == 0 {
		return sha256.Sum256(nil)
	}
	head := t.complete[len(t.complete)-1]
	for i := len(t.complete) - 2; i >= 0; i-- {
		head = node(t.complete[i], head)
	}
	return head
}

// Root is H("cryptflow/v1/root" ‖ 0x00 ‖ head ‖ le64(count)).
func (t *Tree) Root() Hash {
	h := sha256.New()
	h.Write([]byte(tagRoot))
	h.Write([]byte{0})
	head := t.Head()
	h.Write(head[:])
	h.Write(binary.LittleEndian.AppendUint64(nil, t.count))
	return Hash(h.Sum(nil))
}
