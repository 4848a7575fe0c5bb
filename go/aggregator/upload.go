// Package aggregator takes in contributions and adds them: staging of
// uploads, and the fold of a committed set. It holds no key and reaches no
// code that could use one.
//
// # Security
//
// A frame is checked to its last residue before a byte of it is stored. What
// was stored is checked again when it is folded. Uncommitted uploads never
// touch a sum.
//
// # Ownership
//
// Frames are not kept after the call that passes them returns.
package aggregator

import (
	"fmt"
	"sync"

	"github.com/cryptflow/cryptflow/go/canary"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/merkle"
)

// Segment is where one upload's frames are stored, one after the other.
type Segment interface {
	Write(b []byte) (int, error)
	// Commit returns when everything written would survive a crash.
	Commit() error
	// Abort gives up what was written.
	Abort() error
}

// Upload is one client's contribution on its way in. It may be used by
// several goroutines: a cut connection and the one that replaces it.
type Upload struct {
	mu       sync.Mutex
	geometry frame.Geometry
	segment  Segment
	leaves   []merkle.Hash
	tree     merkle.Tree
	canary   []byte // of the control frame; nil without canaries
	failed   error  // of the segment: final, the client begins again
	done     bool
}

// NewUpload begins an upload of the given shape.
func NewUpload(g frame.Geometry, s Segment) (*Upload, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	return &Upload{geometry: g, segment: s}, nil
}

// Next is the index of the first frame that has not arrived.
func (u *Upload) Next() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.leaves)
}

// Put takes frame index. Frames come in order; one that came before is taken
// again without effect when it has the same bytes, and is ErrChunkConflict
// otherwise. It returns ErrChunkOrder for a frame that skips others or lies
// past the end, and the errors of [frame.Check].
func (u *Upload) Put(index int, b []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failed != nil {
		return u.failed
	}
	if index < 0 || index >= u.geometry.Frames() || index > len(u.leaves) {
		return fmt.Errorf("frame %d after %d of %d: %w", index, len(u.leaves), u.geometry.Frames(), errs.ErrChunkOrder)
	}
	if err := frame.Check(b, u.geometry.Header(index)); err != nil {
		return fmt.Errorf("frame %d: %w", index, err)
	}
	leaf := merkle.Leaf(b)
	if index < len(u.leaves) {
		if u.leaves[index] != leaf {
			return fmt.Errorf("frame %d: %w", index, errs.ErrChunkConflict)
		}
		return nil
	}
	if index == u.geometry.ControlIndex() && u.geometry.Canaries > 0 {
		var err error
		if u.canary, err = u.geometry.Canary(b); err != nil {
			return fmt.Errorf("frame %d: %w", index, err)
		}
	}
	if _, err := u.segment.Write(b); err != nil {
		return u.fail(fmt.Errorf("storing frame %d: %w", index, err))
	}
	u.leaves = append(u.leaves, leaf)
	u.tree.Append(leaf)
	return nil
}

// Commit makes the upload durable when it is complete and has the root that
// the client claims. Calling it again with the same root does nothing.
func (u *Upload) Commit(root merkle.Hash) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failed != nil {
		return u.failed
	}
	if have := len(u.leaves); have != u.geometry.Frames() {
		return fmt.Errorf("%d of %d frames: %w", have, u.geometry.Frames(), errs.ErrIncomplete)
	}
	if canary.Root(u.tree, u.canary) != root {
		return fmt.Errorf("committing: %w", errs.ErrRoot)
	}
	if u.done {
		return nil
	}
	if err := u.segment.Commit(); err != nil {
		return u.fail(fmt.Errorf("making the contribution durable: %w", err))
	}
	u.done = true
	return nil
}

// Path is what proves the canaries of a complete upload beside its frames; nil
// without canaries.
func (u *Upload) Path() [][]byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.canary == nil {
		return nil
	}
	return canary.Path(&u.tree)
}

// Abort gives up an upload that was not committed.
func (u *Upload) Abort() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done || u.failed != nil {
		return nil
	}
	u.failed = fmt.Errorf("the upload was given up: %w", errs.ErrUpload)
	return u.segment.Abort()
}

// fail ends the upload. After a failed write or fsync nobody knows what is on
// the disk, so the segment is never used again.
func (u *Upload) fail(err error) error {
	u.failed = err
	if abort := u.segment.Abort(); abort != nil {
		u.failed = fmt.Errorf("%w (and giving it up: %v)", err, abort)
	}
	return u.failed
}

// dead reports whether the upload failed and must begin again.
func (u *Upload) dead() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failed != nil
}
