//go:build cgo

package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/seal"
)

// maxFold bounds the chunks one fold holds in memory.
const maxFold = 256

// folding is the running sum of a range of chunks.
type folding struct {
	mu       sync.Mutex
	geometry frame.Geometry
	first    int
	workers  int
	sums     []*fold.Accumulator
}

// add adds one contribution's frames, each core a part of them.
func (f *folding) add(in *arrowio.Binary, weight uint32) error {
	workers := min(f.workers, len(f.sums))
	failures, panics := make([]error, workers), make([]any, workers)
	var wg sync.WaitGroup
	part := func(k int) {
		defer func() { panics[k] = recover() }() // guard sees those of this goroutine only
		for i := len(f.sums) * k / workers; i < len(f.sums)*(k+1)/workers; i++ {
			if err := f.sums[i].Add(in.Value(i), weight); err != nil {
				failures[k] = fmt.Errorf("frame %d: %w", f.first+i, err)
				return
			}
		}
	}
	for k := 1; k < workers; k++ {
		wg.Go(func() { part(k) })
	}
	part(0)
	wg.Wait()
	for k, err := range failures {
		if panics[k] != nil {
			panic(panics[k])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// FoldNew begins the sum of the frames [first, first+count) of a round, on so
// many threads.
func FoldNew(handle, first, count, workers int64) (int64, error) {
	return guard(func() (int64, error) {
		r, err := lookup[*round](handle)
		if err != nil {
			return 0, err
		}
		g := r.Geometry()
		if first < 0 || count < 1 || count > maxFold || first+count > int64(g.Frames()) {
			return 0, fmt.Errorf("%d frames from %d on, of %d, at most %d at a time: %w", count, first, g.Frames(), maxFold, errs.ErrArgument)
		}
		f := &folding{geometry: g, first: int(first), workers: threads(workers)}
		for i := range int(count) {
			a := fold.New(r.Scheme.Preset)
			a.Reset(g.Header(f.first + i))
			f.sums = append(f.sums, a)
		}
		return store(f), nil
	})
}

// FoldAdd adds one contribution's frames, weight times. When a frame is
// refused the sum is spoilt and closed.
func FoldAdd(handle, weight int64, inArr, inSch uintptr) (int64, error) {
	return guard(func() (int64, error) {
		f, err := lookup[*folding](handle)
		if err != nil {
			return 0, err
		}
		in, err := arrowio.ImportBinary(inArr, inSch)
		if err != nil {
			return 0, err
		}
		defer in.Release()
		f.mu.Lock()
		defer f.mu.Unlock()
		if in.Len() != len(f.sums) {
			return 0, fmt.Errorf("%d frames for a sum of %d: %w", in.Len(), len(f.sums), errs.ErrArgument)
		}
		if weight < 1 || weight > int64(f.geometry.Scheme.Weight) {
			return 0, fmt.Errorf("weight %d outside 1 to %d: %w", weight, f.geometry.Scheme.Weight, errs.ErrWeight)
		}
		if err := f.add(in, uint32(weight)); err != nil {
			handles.Delete(handle)
			return 0, err
		}
		return int64(f.sums[0].Terms()), nil
	})
}

// FoldTake writes the frames of the sum to the output structs.
func FoldTake(handle int64, outArr, outSch uintptr) (int64, error) {
	return guard(func() (int64, error) {
		f, err := lookup[*folding](handle)
		if err != nil {
			return 0, err
		}
		if err := arrowio.CheckOut(outArr, outSch); err != nil {
			return 0, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.sums[0].Terms() == 0 {
			return 0, fmt.Errorf("the sum of no contributions: %w", errs.ErrState)
		}
		var buf []byte
		out, err := arrowio.NewBinary(len(f.sums), 0, func(add func([]byte)) error {
			for _, a := range f.sums {
				buf = a.Append(buf[:0])
				add(buf)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		defer out.Release()
		return int64(len(f.sums)), arrowio.Export(out, outArr, outSch)
	})
}

// OpenerNew prepares the decryption of a sum.
func OpenerNew(handle, release, workers int64) (int64, error) {
	return guard(func() (int64, error) {
		r, err := lookup[*round](handle)
		if err != nil {
			return 0, err
		}
		rel, err := lookup[*seal.Release](release)
		if err != nil {
			return 0, err
		}
		o, err := seal.NewOpener(r.Round, *rel, threads(workers))
		if err != nil {
			return 0, err
		}
		return store(o), nil
	})
}

// OpenControl opens the control frame, the last of a sum, and returns its
// entries as JSON.
func OpenControl(handle int64, inArr, inSch uintptr) (string, error) {
	return guard(func() (string, error) {
		o, in, err := opening(handle, inArr, inSch)
		if err != nil {
			return "", err
		}
		defer in.Release()
		entries, err := o.OpenControl(in.Value(0))
		if err != nil {
			return "", err
		}
		b, err := json.Marshal(entries)
		return string(b), err
	})
}

// Open decrypts data frames from index first on and writes count values,
// float32, to the output structs.
func Open(handle, first, count int64, inArr, inSch, outArr, outSch uintptr) (int64, error) {
	return guard(func() (int64, error) {
		if err := arrowio.CheckOut(outArr, outSch); err != nil {
			return 0, err
		}
		o, in, err := opening(handle, inArr, inSch)
		if err != nil {
			return 0, err
		}
		defer in.Release()
		if room := int64(in.Len()) * int64(o.Geometry().Scheme.ChunkValues()); count < 1 || count > room {
			return 0, fmt.Errorf("%d values of %d frames: %w", count, in.Len(), errs.ErrArgument)
		}
		frames := make([][]byte, in.Len())
		for i := range frames {
			frames[i] = in.Value(i)
		}
		out, values := arrowio.NewFloat32(int(count))
		defer out.Release()
		if err := o.OpenRange(context.Background(), int(first), frames, values); err != nil {
			return 0, err
		}
		return count, arrowio.Export(out, outArr, outSch)
	})
}

func opening(handle int64, inArr, inSch uintptr) (*seal.Opener, *arrowio.Binary, error) {
	o, err := lookup[*seal.Opener](handle)
	if err != nil {
		return nil, nil, err
	}
	in, err := arrowio.ImportBinary(inArr, inSch)
	return o, in, err
}
