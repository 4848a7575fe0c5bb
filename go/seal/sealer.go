package seal

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"math"
	"slices"
	"sync"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/encoding"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/spread"
	"github.com/cryptflow/cryptflow/go/tag"
)

// Sealer makes the frames of one contribution.
type Sealer struct {
	round    Round
	lanes    *encoding.Lanes
	geometry frame.Geometry
	values   []float32
	digits   []uint32 // the further ones of precise tensors
	factor   float64
	controls []uint64
	clipped  []uint64
	largest  []float32
	workers  []*sealWorker
	hasher   *tag.Hasher
	constant uint64 // the client's part of the tag

	mu     sync.Mutex // one Seal at a time; guards leaves
	leaves []leaf
	tags   []chunkTag // of data chunks; each is written by the worker that has the chunk
	canary []byte     // of the control frame that was sealed, in a round with canaries
}

// chunkTag is the tag of a data chunk, once it was encoded.
type chunkTag struct {
	value uint64
	known bool
}

// Option adds to a contribution what not every round has.
type Option func(*Sealer) error

// From names the client, which a round with tags needs.
func From(client string) Option {
	return func(s *Sealer) error {
		if s.hasher != nil {
			s.constant = s.hasher.Client(client)
		}
		return nil
	}
}

// CheckMetric refuses a value that would not travel as it is.
func CheckMetric(name string, value float64) error {
	if math.Abs(value) > encoding.MetricLimit {
		return fmt.Errorf("metric %q is %g; metrics travel between -%d and %d: scale it, or leave it out: %w",
			name, value, encoding.MetricLimit, encoding.MetricLimit, errs.ErrArgument)
	}
	return nil
}

// WithMetrics adds named scalars, each of which the round must have.
func WithMetrics(metrics map[string]float64) Option {
	return func(s *Sealer) error {
		for name, v := range metrics {
			k := slices.Index(s.round.Metrics, name)
			if k < 0 {
				return fmt.Errorf("the task has no metric %q; it has %q: %w", name, s.round.Metrics, errs.ErrArgument)
			}
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("metric %q is NaN or an infinity: %w", name, errs.ErrNotFinite)
			}
			if err := CheckMetric(name, v); err != nil {
				return err
			}
			at := s.round.Controls().Metric(k)
			s.controls[at] = encoding.EncodeMetric(v, s.factor)
			s.controls[at+1] = s.controls[params.ControlWeight]
		}
		return nil
	}
}

type leaf struct {
	hash  [sha256.Size]byte
	known bool
}

// sealWorker is one core's share: an encryptor and frames, of which one is
// being filled while others wait to be emitted.
type sealWorker struct {
	encryptor *ckks.Encryptor
	embedding *embedding // nil with lanes
	words     [][]uint64
	slots     [depth]slot // of Seal, made when it is first used
	direct    slot        // of SealInto, whose room it is
	hash      hash.Hash
}

type slot struct {
	buf  []byte
	n    int
	leaf [sha256.Size]byte
	err  error
	busy bool // being filled, or waiting to be emitted
}

// leafPrefix distinguishes leaves from nodes, as in RFC 6962.
var leafPrefix = []byte{0}

// NewSealer checks an update and prepares its encryption. It returns
// ErrNotFinite, naming the tensor, for NaN or an infinity, and ErrWeight for a
// weight of 0 or above the cap. In shared-key the weight is public, applied by
// the aggregator, and 1 here.
func NewSealer(r Round, secrets Secrets, values []float32, weight uint32, threads int, options ...Option) (*Sealer, error) {
	lanes, geometry, err := r.lanes()
	if err != nil {
		return nil, err
	}
	if int64(len(values)) != lanes.Values() {
		return nil, fmt.Errorf("an update of %d values for a layout of %d: %w", len(values), lanes.Values(), errs.ErrLayout)
	}
	if weight < 1 || weight > r.WeightCap {
		return nil, fmt.Errorf("num_examples is %d; the task allows 1 to %d: %w", weight, r.WeightCap, errs.ErrWeight)
	}
	s := &Sealer{
		round: r, lanes: lanes, geometry: geometry, values: values,
		factor: r.factor(weight), controls: make([]uint64, r.Controls().Count()),
		leaves: make([]leaf, geometry.Frames()), tags: make([]chunkTag, geometry.ControlIndex()),
	}
	threads = threadsOr(threads, geometry.Frames())
	if err := s.prepare(secrets, threads); err != nil {
		return nil, err
	}
	s.controls[params.ControlWeight] = uint64(weight)
	if r.Scheme.Mode == params.SharedKey {
		s.controls[params.ControlWeight] = 1
	}
	order := r.Controls()
	for k, n := range s.clipped {
		s.controls[params.ControlClipped] += n
		if k < order.Tensors {
			s.controls[order.Clipped(k)] = n
		}
	}
	for k := range r.Metrics {
		s.controls[order.Metric(k)] = encoding.EncodeMetric(0, s.factor)
	}
	for _, option := range options {
		if err := option(s); err != nil {
			return nil, err
		}
	}
	if s.hasher != nil && s.constant == 0 {
		return nil, fmt.Errorf("a contribution with a tag needs its client's name: %w", errs.ErrArgument)
	}
	return s, nil
}

func newSealWorker(r Round, encryptor *ckks.Encryptor) *sealWorker {
	w := &sealWorker{hash: sha256.New(), words: planes(r.Scheme), encryptor: encryptor}
	w.embedding = newEmbedding(r.Scheme)
	return w
}

// rooms makes the room for frames that wait, once.
func (w *sealWorker) rooms(g frame.Geometry) {
	if w.slots[0].buf != nil {
		return
	}
	size := max(g.FrameSize(0), g.FrameSize(g.ControlIndex()))
	for i := range w.slots {
		w.slots[i].buf = make([]byte, size)
	}
}

// planes makes room for one plaintext.
func planes(s *params.Scheme) [][]uint64 {
	out := make([][]uint64, len(s.Primes))
	for i := range out {
		out[i] = make([]uint64, s.N())
	}
	return out
}

// Largest is the largest magnitude of the update, by tensor.
func (s *Sealer) Largest() []float32 { return append([]float32(nil), s.largest...) }

// Frames is the number of frames of the contribution, the control chunk last.
func (s *Sealer) Frames() int { return s.geometry.Frames() }

// Geometry is the shape of the contribution.
func (s *Sealer) Geometry() frame.Geometry { return s.geometry }

// Clipped is the number of values outside the range, by tensor.
func (s *Sealer) Clipped() []uint64 { return append([]uint64(nil), s.clipped...) }

// Leaf is the hash of a frame that was sealed before, H(0x00 ‖ frame): the
// leaf of the contribution's Merkle tree.
func (s *Sealer) Leaf(index int) (h [sha256.Size]byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index < 0 || index >= len(s.leaves) {
		return h, false
	}
	return s.leaves[index].hash, s.leaves[index].known
}

// Canary is what [frame.Geometry.Canary] says of the control frame, once it was
// sealed.
func (s *Sealer) Canary() (b []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.canary), s.canary != nil
}

// Seal makes frames [from, to) and passes them to emit in order. It may be
// called again for the same frames, which are then the same bytes; when the
// update changed in between it returns ErrContribution before emitting the
// frame that differs. It returns the context's error, or emit's, at once. Calls
// of emit never overlap, and come from several goroutines.
func (s *Sealer) Seal(ctx context.Context, from, to int, emit func(index int, frame []byte) error) error {
	if from < 0 || to < from || to > s.Frames() {
		return fmt.Errorf("frames %d to %d of %d: %w", from, to, s.Frames(), errs.ErrArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The control chunk waits for the tags of all others.
	data := min(to, s.geometry.ControlIndex())
	if from < data {
		if err := s.sealData(ctx, from, data, emit); err != nil {
			return err
		}
	}
	if data == to {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w := s.workers[0]
	if err := s.finish(ctx, w); err != nil {
		return err
	}
	w.rooms(s.geometry)
	w.fill(&w.slots[0], s, data)
	return s.deliver(data, &w.slots[0], emit)
}

// SealInto is Seal into dst, which has room for frames [from, to) one after
// the other and no more: cores write there without waiting for each other.
// After an error dst is zero.
func (s *Sealer) SealInto(ctx context.Context, from, to int, dst []byte) (err error) {
	if from < 0 || to < from || to > s.Frames() {
		return fmt.Errorf("frames %d to %d of %d: %w", from, to, s.Frames(), errs.ErrArgument)
	}
	base := s.geometry.Offset(from)
	if size := s.geometry.Offset(to) - base; int64(len(dst)) != size {
		return fmt.Errorf("room of %d bytes for frames of %d: %w", len(dst), size, errs.ErrArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if err != nil {
			clear(dst)
		}
	}()
	one := func(worker, index int) error {
		w := s.worker(worker)
		w.direct.buf = dst[s.geometry.Offset(index)-base : s.geometry.Offset(index+1)-base]
		w.fill(&w.direct, s, index)
		return s.deliver(index, &w.direct, func(int, []byte) error { return nil })
	}
	data := min(to, s.geometry.ControlIndex())
	err = spread.Over(ctx, len(s.workers), data-from, func(worker, k int) error { return one(worker, from+k) })
	if err != nil || data == to {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.finish(ctx, s.workers[0]); err != nil {
		return err
	}
	return one(0, data)
}

// finish computes the tag of the contribution: chunks that were not sealed yet
// are encoded for it.
func (s *Sealer) finish(ctx context.Context, w *sealWorker) error {
	if s.hasher == nil {
		return nil
	}
	sum := s.constant
	for index := range s.tags {
		if !s.tags[index].known {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := w.encode(s, index); err != nil {
				return err
			}
		}
		sum = tag.Add(sum, s.tags[index].value)
	}
	control := s.geometry.ControlIndex()
	s.controls[params.ControlTagLow], s.controls[params.ControlTagHigh] = 0, 0
	if err := encoding.EncodeControl(w.words, s.controls); err != nil {
		return err
	}
	sum = tag.Add(sum, s.hasher.Symbols(uint32(control), encoding.TaggedLimbs(w.words, len(s.controls))))
	s.controls[params.ControlTagLow], s.controls[params.ControlTagHigh] = sum&encoding.MaxControl, sum>>48
	return nil
}

// deliver compares a frame with what was emitted in its place before. A panic
// of emit, which may run where nobody else would recover it, is an error.
func (s *Sealer) deliver(index int, f *slot, emit func(int, []byte) error) (err error) {
	if f.err != nil {
		return f.err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("passing frame %d on panicked: %w", index, errs.ErrPanic)
		}
	}()
	known := &s.leaves[index]
	if known.known && known.hash != f.leaf {
		return fmt.Errorf("frame %d: the update changed since it was first encrypted; contribute it with new secrets: %w", index, errs.ErrContribution)
	}
	if index == s.geometry.ControlIndex() && s.geometry.Canaries > 0 && s.canary == nil {
		if s.canary, err = s.geometry.Canary(f.buf[:f.n]); err != nil {
			return err
		}
	}
	known.hash, known.known = f.leaf, true
	return emit(index, f.buf[:f.n])
}

// fill makes frame index.
func (w *sealWorker) fill(f *slot, s *Sealer, index int) {
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("encrypting frame %d panicked: %w", index, errs.ErrPanic)
		}
	}()
	h := s.geometry.Header(index)
	f.n = s.geometry.FrameSize(index)
	if f.err = w.encode(s, index); f.err != nil {
		return
	}
	if f.err = w.encryptor.Encrypt(f.buf[:f.n], h, w.words); f.err != nil {
		return
	}
	w.hash.Reset()
	w.hash.Write(leafPrefix)
	w.hash.Write(f.buf[:f.n])
	w.hash.Sum(f.leaf[:0])
}

func (w *sealWorker) encode(s *Sealer, index int) error {
	if index == s.geometry.ControlIndex() {
		encoding.ClearCanaries(w.words, s.geometry.CanaryFrom(), s.geometry.Canaries)
		return encoding.EncodeControl(w.words, s.controls)
	}
	from, to := s.geometry.Span(index)
	// Digits follow the values; a chunk may hold both.
	end := s.lanes.Values()
	values := s.values[min(from, end):min(to, end)]
	digits := s.digits[max(from, end)-end : max(to, end)-end]
	scheme, rounded := s.round.Scheme, len(values)
	if w.embedding != nil {
		rounded = scheme.N()
	}
	var rho []byte
	if scheme.Rounding == params.Stochastic {
		rho = w.encryptor.Rounding(uint32(index), rounded)
	}
	n := rounded
	if w.embedding != nil {
		w.embedding.encode(w.words, s.lanes, values, from, s.factor, rho)
	} else {
		n = s.lanes.EncodeWith(w.words, values, digits, from, s.factor, rho)
	}
	if s.hasher != nil {
		s.tags[index] = chunkTag{value: s.hasher.Chunk(uint32(index), w.words, n), known: true}
	}
	return nil
}
