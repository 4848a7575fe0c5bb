package seal

import (
	"context"
	"fmt"
	"sync"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/encoding"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/spread"
	"github.com/cryptflow/cryptflow/go/tag"
)

// Opener decrypts the result of a round. It may be used by several goroutines.
type Opener struct {
	round    Round
	release  Release
	lanes    *encoding.Lanes
	geometry frame.Geometry
	pool     chan *openWorker
	hasher   *tag.Hasher
	digits   *digits // nil without precise tensors

	mu      sync.Mutex
	weights uint64 // Σw of the control chunk; 0 until OpenControl
	want    uint64 // the tag that it says
	tags    []chunkTag
	control uint64     // its own tag
	sums    []chunkSum // by frame
	high    []uint64   // upper words of the control chunk's sums
}

type openWorker struct {
	decryptor *ckks.Decryptor
	sums      *sumHasher
	embedding *embedding // nil with lanes
	words     [][]uint64
	scratch   []float32 // for chunks with digits; nil without precise tensors
}

// NewOpener checks the release and prepares decryption on the given number of
// threads. OpenControl comes before the other frames.
func NewOpener(r Round, release Release, threads int) (*Opener, error) {
	lanes, geometry, err := r.lanes()
	if err != nil {
		return nil, err
	}
	if err := release.check(r.Scheme); err != nil {
		return nil, err
	}
	if err := release.members(r); err != nil {
		return nil, err
	}
	threads = threadsOr(threads, geometry.Frames())
	o := &Opener{
		round: r, release: release, lanes: lanes, geometry: geometry, pool: make(chan *openWorker, threads),
		tags: make([]chunkTag, geometry.ControlIndex()), sums: make([]chunkSum, geometry.Frames()), digits: newDigits(lanes, geometry.ControlIndex()),
	}
	var d *ckks.Decryptor
	err = together(threads, func() (err error) {
		d, err = ckks.NewDecryptor(r.Scheme, r.SpecDigest, release.Secret, release.Terms, release.Squares, runner(threads))
		return err
	}, func() error {
		o.hasher = r.hasher()
		return nil
	})
	if err != nil {
		return nil, err
	}
	for k := range threads {
		if k > 0 {
			d = d.Fork()
		}
		w := &openWorker{decryptor: d, embedding: newEmbedding(r.Scheme), words: planes(r.Scheme), sums: newSumHasher()}
		if o.digits != nil {
			w.scratch = make([]float32, r.Scheme.ChunkValues())
		}
		o.pool <- w
	}
	return o, nil
}

// Frames is the number of frames of the result, the control chunk last.
func (o *Opener) Frames() int { return o.geometry.Frames() }

// Header is the header that frame index of the result must have: terms and
// weights are those of the release.
func (o *Opener) Header(index int) frame.Header {
	h := o.geometry.Header(index)
	h.Terms, h.Weight = o.release.Terms, o.release.WeightSum
	return h
}

// OpenControl opens the control chunk, the last frame, and returns the sums of
// its entries, those of tags and metrics modulo 2^64. It returns ErrWeightSum
// when the weights are not what a cohort of the release's size can have.
func (o *Opener) OpenControl(b []byte) ([]uint64, error) {
	w := <-o.pool
	defer func() { o.pool <- w }()
	if err := w.decryptor.Decrypt(w.words, b, o.Header(o.geometry.ControlIndex())); err != nil {
		return nil, err
	}
	entries, high, err := encoding.DecodeControl(w.words, o.geometry.Controls, o.release.WeightSum)
	if err != nil {
		return nil, err
	}
	if err := encoding.CheckCanaries(w.words, o.geometry.CanaryFrom(), o.geometry.Canaries); err != nil {
		return nil, err
	}
	if err := o.fit(high); err != nil {
		return nil, err
	}
	if o.hasher != nil {
		o.control = o.hasher.Symbols(uint32(o.geometry.ControlIndex()), encoding.TaggedLimbs(w.words, o.geometry.Controls))
		o.want = tag.Add(entries[params.ControlTagLow], tag.Shift64(high[params.ControlTagLow]))
		o.want = tag.Add(o.want, tag.Shift48(entries[params.ControlTagHigh]))
	}
	sum, n := entries[params.ControlWeight], uint64(o.release.Terms)
	if o.round.Scheme.Mode == params.SharedKey {
		if sum != uint64(o.release.WeightSum) {
			return nil, fmt.Errorf("the weights sum to %d under encryption and to %d in the release: %w", sum, o.release.WeightSum, errs.ErrWeightSum)
		}
	} else if sum < n || sum > n*uint64(o.round.WeightCap) {
		return nil, fmt.Errorf("the weights of %d clients sum to %d, outside %d to %d: %w", n, sum, n, n*uint64(o.round.WeightCap), errs.ErrWeightSum)
	}
	o.mu.Lock()
	o.weights, o.high = sum, high
	o.sums[o.geometry.ControlIndex()] = w.sums.entries(entries, high)
	o.mu.Unlock()
	return entries, nil
}

// fit says whether only those sums have an upper word that may have one: of the
// tag's lower part, and of metrics. Counts have at most 36 bits, weights less.
func (o *Opener) fit(high []uint64) error {
	order := o.round.Controls()
	for k, h := range high {
		metric := k >= order.Metric(0) && k < order.Metric(order.Metrics) && (k-order.Metric(0))%2 == 0
		if h != 0 && k != params.ControlTagLow && !metric {
			return fmt.Errorf("the sum of control entry %d exceeds 64 bits: %w", k, errs.ErrDecrypt)
		}
	}
	return nil
}

// Open decrypts data frame index and writes its values, [Opener.Span] of them,
// to out. Those of precise tensors are there after [Opener.Finish].
func (o *Opener) Open(ctx context.Context, index int, b []byte, out []float32) error {
	o.mu.Lock()
	weights := o.weights
	o.mu.Unlock()
	if weights == 0 {
		return fmt.Errorf("a data frame before the control chunk: %w", errs.ErrState)
	}
	if index < 0 || index >= o.geometry.ControlIndex() {
		return fmt.Errorf("data frame %d of %d: %w", index, o.geometry.ControlIndex(), errs.ErrArgument)
	}
	if from, to := o.Span(index); int64(len(out)) != to-from {
		return fmt.Errorf("room for %d values of frame %d, which has %d: %w", len(out), index, to-from, errs.ErrArgument)
	}
	from, to := o.geometry.Span(index)
	var w *openWorker
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case w = <-o.pool:
	}
	defer func() { o.pool <- w }()
	if err := w.decryptor.Decrypt(w.words, b, o.Header(index)); err != nil {
		return err
	}
	err := error(nil)
	switch {
	case w.embedding != nil:
		err = w.embedding.decode(out, w.words, o.lanes, from, o.release.WeightSum, o.round.divisor(weights))
	case o.digits != nil:
		all := w.scratch[:to-from]
		if err = o.lanes.Decode(all, w.words, from, o.release.WeightSum, o.round.divisor(weights)); err == nil {
			copy(out, all)
			o.digits.take(o.lanes, w.words, from, to, o.release.WeightSum)
			o.mu.Lock()
			o.digits.opened[index] = true
			o.mu.Unlock()
		}
	default:
		err = o.lanes.Decode(out, w.words, from, o.release.WeightSum, o.round.divisor(weights))
	}
	if err != nil {
		return fmt.Errorf("chunk %d: %w", index, err)
	}
	used := o.round.Scheme.Coefficients(o.geometry.Values, index)
	var opened chunkSum
	if w.embedding != nil {
		opened = w.sums.values(out)
	} else {
		opened = w.sums.integers(w.words, used)
	}
	t := chunkTag{}
	if o.hasher != nil {
		t = chunkTag{value: o.hasher.Chunk(uint32(index), w.words, used), known: true}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tags[index], o.sums[index] = t, opened
	return nil
}

// Verify says, after every frame was opened, whether the sum is that of the
// contributions of the release's members and of nothing else: it returns
// ErrTag when the aggregator changed anything. A round without tags has
// nothing to verify.
func (o *Opener) Verify() error {
	if o.hasher == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	sum := o.control
	for index, t := range o.tags {
		if !t.known {
			return fmt.Errorf("frame %d was not opened: %w", index, errs.ErrState)
		}
		sum = tag.Add(sum, t.value)
	}
	for _, m := range o.release.Members {
		sum = tag.Add(sum, tag.Scale(o.hasher.Client(m.Client), m.Weight))
	}
	if o.weights == 0 {
		return fmt.Errorf("the control chunk was not opened: %w", errs.ErrState)
	}
	if sum != o.want {
		return fmt.Errorf("a result of %d clients: %w", o.release.Terms, errs.ErrTag)
	}
	return nil
}

// Metrics are the weighted means of what the control chunk says of metrics;
// those that nobody gave are missing. OpenControl comes before.
func (o *Opener) Metrics(entries []uint64) map[string]float64 {
	o.mu.Lock()
	high := o.high
	o.mu.Unlock()
	out := map[string]float64{}
	order := o.round.Controls()
	for k, name := range o.round.Metrics {
		at := order.Metric(k)
		if weights := entries[at+1]; weights > 0 {
			out[name] = encoding.DecodeMetric(high[at], entries[at], o.release.WeightSum, o.round.divisor(weights))
		}
	}
	return out
}

// OpenRange opens the data frames from index first on, on all threads, and
// writes their values to out, one after the other. The error is that of the
// first frame that failed; out is meaningless then.
func (o *Opener) OpenRange(ctx context.Context, first int, frames [][]byte, out []float32) error {
	if first < 0 || len(frames) > o.geometry.ControlIndex()-first {
		return fmt.Errorf("data frames %d to %d of %d: %w", first, first+len(frames), o.geometry.ControlIndex(), errs.ErrArgument)
	}
	if len(frames) == 0 {
		return nil
	}
	start, _ := o.Span(first)
	_, end := o.Span(first + len(frames) - 1)
	if int64(len(out)) != end-start {
		return fmt.Errorf("room for %d values of frames that have %d: %w", len(out), end-start, errs.ErrArgument)
	}
	return spread.Over(ctx, cap(o.pool), len(frames), func(_, k int) error {
		from, to := o.Span(first + k)
		return o.Open(ctx, first+k, frames[k], out[from-start:to-start])
	})
}

// Geometry is the shape of the result.
func (o *Opener) Geometry() frame.Geometry { return o.geometry }
