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
	"github.com/cryptflow/cryptflow/go/spread"
)

// maxFold bounds the chunks of one fold.
const maxFold = 256

// folding is the sum of a range of chunks: contributions are held until it is
// taken, so that each core adds up a chunk of all of them while it is in the
// core's cache.
type folding struct {
	mu       sync.Mutex
	geometry frame.Geometry
	first    int
	count    int
	workers  int
	terms    []term
}

// term is one contribution's frames and its weight.
type term struct {
	frames *arrowio.Binary
	weight uint32
}

func (f *folding) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.terms {
		t.frames.Release()
	}
	f.terms = nil
}

// sum writes the frames of the sum to room, one after the other.
func (f *folding) sum(room []byte) error {
	base := f.geometry.Offset(f.first)
	sums := make([]*fold.Accumulator, min(f.workers, f.count))
	return spread.Over(context.Background(), len(sums), f.count, func(worker, k int) error {
		if sums[worker] == nil {
			sums[worker] = fold.New(f.geometry.Scheme.Preset)
		}
		sum, index := sums[worker], f.first+k
		sum.Reset(f.geometry.Header(index))
		for i, t := range f.terms {
			if err := sum.Add(t.frames.Value(k), t.weight); err != nil {
				return fmt.Errorf("frame %d of contribution %d: %w", index, i, err)
			}
		}
		from, to := f.geometry.Offset(index)-base, f.geometry.Offset(index+1)-base
		sum.Append(room[from:from:to])
		return nil
	})
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
		return store(&folding{geometry: g, first: int(first), count: int(count), workers: threads(workers)}), nil
	})
}

// FoldAdd takes one contribution's frames, to be added weight times, and
// returns how many contributions there are. It holds them until Close.
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
		f.mu.Lock()
		defer f.mu.Unlock()
		if in.Len() != f.count {
			err = fmt.Errorf("%d frames for a sum of %d: %w", in.Len(), f.count, errs.ErrArgument)
		} else if weight < 1 || weight > int64(f.geometry.Scheme.Weight) {
			err = fmt.Errorf("weight %d outside 1 to %d: %w", weight, f.geometry.Scheme.Weight, errs.ErrWeight)
		}
		if err != nil {
			in.Release()
			return 0, err
		}
		f.terms = append(f.terms, term{in, uint32(weight)})
		return int64(len(f.terms)), nil
	})
}

// FoldTake checks and adds what FoldAdd took, writes the frames of the sum to
// the output structs and returns their number.
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
		if len(f.terms) == 0 {
			return 0, fmt.Errorf("the sum of no contributions: %w", errs.ErrState)
		}
		out, err := arrowio.NewBinary(sizes(f.geometry, f.first, f.first+f.count), f.sum)
		if err != nil {
			return 0, err
		}
		defer out.Release()
		return int64(f.count), arrowio.Export(out, outArr, outSch)
	})
}

// sizes are those of the frames [from, to).
func sizes(g frame.Geometry, from, to int) []int {
	out := make([]int, to-from)
	for i := range out {
		out[i] = g.FrameSize(from + i)
	}
	return out
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
