package aggregator

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/merkle"
)

// Contribution is one committed update of a sealed set.
type Contribution struct {
	Client string
	Weight uint32      // public integer weight; 1 in sum-key
	Frames io.ReaderAt // the frames one after the other, as uploaded
}

// Sum adds a committed set and passes the frames of the result to emit, in
// order; a frame is valid until emit returns. It returns the result's root.
// The same set gives the same bytes whatever the order of the contributions
// and the number of workers. Memory is a few frames a worker, whatever the
// size of the update and the number of clients.
func Sum(ctx context.Context, g frame.Geometry, set []Contribution, workers int, emit func(index int, frame []byte) error) (merkle.Hash, error) {
	if err := g.Validate(); err != nil {
		return merkle.Hash{}, err
	}
	if len(set) == 0 || len(set) > g.Scheme.Clients {
		return merkle.Hash{}, fmt.Errorf("a sum of %d contributions, the scheme allows 1 to %d: %w", len(set), g.Scheme.Clients, errs.ErrLimit)
	}
	for _, c := range set {
		if c.Weight < 1 || c.Weight > uint32(g.Scheme.Weight) {
			return merkle.Hash{}, fmt.Errorf("weight %d of %s, allowed are 1 to %d: %w", c.Weight, c.Client, g.Scheme.Weight, errs.ErrWeight)
		}
	}
	adders := make([]*adder, max(1, min(workers, g.Frames())))
	for i := range adders {
		adders[i] = newAdder(g)
	}
	var tree merkle.Tree
	for first := 0; first < g.Frames(); first += len(adders) {
		if err := ctx.Err(); err != nil {
			return merkle.Hash{}, context.Cause(ctx)
		}
		busy := adders[:min(len(adders), g.Frames()-first)]
		var wg sync.WaitGroup
		for i, a := range busy {
			wg.Go(func() { a.add(set, first+i) })
		}
		wg.Wait()
		for i, a := range busy {
			if a.err != nil {
				return merkle.Hash{}, a.err
			}
			tree.Append(a.leaf)
			if err := emit(first+i, a.out); err != nil {
				return merkle.Hash{}, err
			}
		}
	}
	return tree.Root(), nil
}

// adder is one worker's share: an accumulator and room for a frame in and out.
type adder struct {
	geometry frame.Geometry
	sum      *fold.Accumulator
	in, out  []byte
	leaf     merkle.Hash
	err      error
}

func newAdder(g frame.Geometry) *adder {
	size := max(g.FrameSize(0), g.FrameSize(g.ControlIndex()))
	return &adder{geometry: g, sum: fold.New(g.Scheme.Preset), in: make([]byte, size), out: make([]byte, 0, size)}
}

// add makes frame index of the result in out.
func (a *adder) add(set []Contribution, index int) {
	defer func() {
		if p := recover(); p != nil {
			a.err = fmt.Errorf("adding frame %d panicked: %w", index, errs.ErrInternal)
		}
	}()
	a.err = nil
	a.sum.Reset(a.geometry.Header(index))
	in := a.in[:a.geometry.FrameSize(index)]
	for _, c := range set {
		if n, err := c.Frames.ReadAt(in, a.geometry.Offset(index)); n < len(in) {
			a.err = fmt.Errorf("reading frame %d of %s: %w", index, c.Client, err)
			return
		}
		if err := a.sum.Add(in, c.Weight); err != nil {
			a.err = fmt.Errorf("frame %d of %s: %w", index, c.Client, err)
			return
		}
	}
	a.out = a.sum.Append(a.out[:0])
	a.leaf = merkle.Leaf(a.out)
}
