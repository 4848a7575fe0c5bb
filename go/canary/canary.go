// Package canary is the proof that the canaries of a contribution are those
// that its client deposited: a few coefficients of the control chunk that carry
// zero, by which the key service tells, before it opens anything, whose
// contribution is not under its deposited key.
//
// In a task with canaries the root of a contribution has one leaf more than
// frames, the last: the residues of the canaries. The client deposits the root,
// the aggregator compares the leaf with the control frame when the contribution
// is committed, and hands leaf and path to the key service when the set is to
// be decided.
//
// # Security
//
// The key service sees residues of coefficients that carry nothing, and no
// other part of a ciphertext: it has every key, and would read what it is
// given. Residues that do not lead to the deposited root are the aggregator's
// fault and exclude nobody, so that no aggregator can have an honest client
// refused.
package canary

import (
	"fmt"
	"math/bits"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/merkle"
)

// tag distinguishes the leaf from those of frames, which begin with "CFF1".
const tag = "cryptflow/v1/canaries\x00"

// Leaf is the leaf hash of packed residues.
func Leaf(canary []byte) merkle.Hash { return merkle.Leaf(append([]byte(tag), canary...)) }

// Root is the root of a contribution whose frames are in the tree, given what
// [frame.Geometry.Canary] says of its control frame: nil without canaries. The
// tree is not changed.
func Root(frames merkle.Tree, canary []byte) merkle.Hash {
	if canary != nil {
		frames = frames.Clone()
		frames.Append(Leaf(canary))
	}
	return frames.Root()
}

// Path is what proves the leaf of canaries beside the frames in a tree.
func Path(frames *merkle.Tree) [][]byte {
	var out [][]byte
	for _, h := range frames.Complete() {
		out = append(out, h[:])
	}
	return out
}

// Open checks that packed residues and a path lead to a root, and returns the
// residues of each prime. It returns ErrFrame for anything else.
func Open(g frame.Geometry, root merkle.Hash, canary []byte, path [][]byte) ([][]uint64, error) {
	if want := bits.OnesCount64(uint64(g.Frames())); len(path) != want {
		return nil, fmt.Errorf("a path of %d hashes, want %d: %w", len(path), want, errs.ErrFrame)
	}
	complete := make([]merkle.Hash, len(path))
	for i, b := range path {
		if len(b) != len(merkle.Hash{}) {
			return nil, fmt.Errorf("a hash of %d bytes: %w", len(b), errs.ErrFrame)
		}
		complete[i] = merkle.Hash(b)
	}
	residues, err := g.CanaryResidues(canary)
	if err != nil {
		return nil, err
	}
	if Root(merkle.Resume(complete, uint64(g.Frames())), canary) != root {
		return nil, fmt.Errorf("the canaries are not those of the deposited contribution: %w", errs.ErrFrame)
	}
	return residues, nil
}
