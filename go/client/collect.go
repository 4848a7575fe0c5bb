package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/task"
)

// Report is what a round cost and gave.
type Report struct {
	Task         string            `json:"task"`
	Round        uint32            `json:"round"` // updates published before it
	ServiceRound uint32            `json:"service_round"`
	Mode         string            `json:"mode"`
	Preset       string            `json:"preset"`
	Bits         uint32            `json:"bits"`
	Cohort       uint32            `json:"cohort"`
	Clients      []string          `json:"clients"`
	Weight       uint32            `json:"weight"`     // this client's, as used
	WeightSum    uint64            `json:"weight_sum"` // the cohort's
	Values       int64             `json:"values"`
	Clipped      map[string]uint64 `json:"clipped"`       // this client's, by tensor
	ClippedAll   map[string]uint64 `json:"clipped_all"`   // the cohort's, by tensor
	ClippedTotal uint64            `json:"clipped_total"` // the cohort's
	// EffectiveBits is how many of Bits the largest value of this client's
	// tensor used.
	EffectiveBits map[string]float64 `json:"effective_bits"`
	Ranges        map[string]float32 `json:"ranges"`  // largest magnitude that travelled, by tensor
	Metrics       map[string]float64 `json:"metrics"` // the cohort's means
	Seconds       map[Phase]float64  `json:"seconds"`
	BytesUp       int64              `json:"bytes_up"`
	BytesDown     int64              `json:"bytes_down"`
	StatedBound   float64            `json:"stated_bound"` // of the largest range
	Bounds        map[string]float64 `json:"bounds"`       // by tensor
	ResultDigest  string             `json:"result_digest"`
	SpecDigest    string             `json:"spec_digest"`
	Checkpoint    string             `json:"checkpoint"`
	Attempts      int                `json:"attempts"` // rounds tried; those before were aborted
	// Spent is how many updates were released up to this one, those included that
	// did not open: what privacy accounts for.
	Spent uint32 `json:"spent"`
	// Noise is the standard deviation of the noise in every value of the mean,
	// on purpose; 0 without privacy.
	Noise float64 `json:"noise"`
}

// Collect waits for the round's result, opens it into out, and reports. It
// returns ErrAborted, after verifying the key service's signature, when the
// round was given up: the same update may then be contributed again.
func (x *Client) Collect(ctx context.Context, c *Contribution, out []float32, progress Progress) (*Report, error) {
	report, err := x.collect(ctx, c, out, progress)
	x.settle(c, err)
	return report, err
}

func (x *Client) collect(ctx context.Context, c *Contribution, out []float32, progress Progress) (*Report, error) {
	if int64(len(out)) != c.round.Values() {
		return nil, fmt.Errorf("room for %d values of %d: %w", len(out), c.round.Values(), errs.ErrArgument)
	}
	s := c.opened
	if s == nil {
		var err error
		if s, err = x.opensTo(ctx, c, out, progress); err != nil {
			return nil, err
		}
	} else {
		copy(out, s.mean)
	}
	began := time.Now()
	if err := x.agreeOn(ctx, c, s.digest, s.sums); err != nil {
		// The round's keys go when everybody has reported: what was opened is kept
		// for whoever was interrupted while it waited for the others' word.
		if c.opened == nil && !isStatement(err) {
			s.mean, c.opened = slices.Clone(out), s
		}
		return nil, err
	}
	c.opened = nil
	c.seconds[Wait] += time.Since(began).Seconds()
	x.mu.Lock()
	x.model = task.NextModel(c.Round.Spec.ModelDigest, c.Round.Digest, s.digest)
	x.kind, x.step = x.task.Ranges.Next(c.Round.Spec.Kind), c.Round.Spec.Kind.Steps(c.Round.Spec.Step)
	x.open = nil
	x.mu.Unlock()
	report := x.report(c, s.release, s.manifest, s.control, out, s.digest, s.checkpoint)
	report.Metrics = s.metrics
	if c.Round.Spec.Kind == task.KindValues {
		x.follow(c, out, s.control, report.Cohort)
	}
	return report, nil
}

// opensTo waits for the round of a contribution and opens its sum into out.
func (x *Client) opensTo(ctx context.Context, c *Contribution, out []float32, progress Progress) (*sum, error) {
	began := time.Now()
	if err := x.await(ctx, c, progress); err != nil {
		return nil, err
	}
	c.seconds[Wait] += time.Since(began).Seconds()
	began = time.Now()
	rel, checkpoint, manifest, err := x.release(ctx, c)
	if err != nil {
		return nil, err
	}
	defer clear(rel.Secret)
	s, err := x.openSum(ctx, c, rel, manifest, out, progress)
	if err != nil {
		// Whoever could not open the sum says so, so that a sum that opens for few
		// counts for nobody.
		if broken(err) {
			if failed := x.agreeOn(ctx, c, task.Digest{}, task.Digest{}); isStatement(failed) {
				return nil, errors.Join(failed, err)
			}
		}
		return nil, err
	}
	c.seconds[Decrypt] += s.decrypting.Seconds()
	c.seconds[Download] += (time.Since(began) - s.decrypting).Seconds()
	s.release, s.manifest, s.checkpoint = rel, manifest, checkpoint
	return s, nil
}

// sum is what a released round opened to, beside the mean.
type sum struct {
	control      []uint64
	metrics      map[string]float64
	digest, sums task.Digest // of the result, and of the integers that it opened to
	decrypting   time.Duration
	release      *task.Release // its secret is cleared
	manifest     *task.Manifest
	checkpoint   *audit.Checkpoint
	mean         []float32 // kept when the report was interrupted
}

// openSum fetches the result of a released round, opens it into out and verifies
// that it is the sum of the released set.
func (x *Client) openSum(
	ctx context.Context, c *Contribution, rel *task.Release, m *task.Manifest, out []float32, progress Progress,
) (*sum, error) {
	var result *task.Result
	if err := x.patiently(ctx, func() (err error) {
		result, err = x.result(ctx, c, rel)
		return x.facts(ctx, c, err)
	}); err != nil {
		return nil, err
	}
	opener, err := seal.NewOpener(c.round, opened(rel, m), x.c.Threads)
	if err != nil {
		return nil, err
	}
	o := &opening{client: x, c: c, opener: opener, out: out, progress: progress}
	var control []uint64
	if err := x.patiently(ctx, func() (err error) {
		control, err = o.run(ctx, result)
		return x.facts(ctx, c, err)
	}); err != nil {
		return nil, err
	}
	if err := opener.Verify(); err != nil {
		return nil, err
	}
	if err := opener.Finish(out); err != nil {
		return nil, err
	}
	if c.Round.Spec.Kind == task.KindRanges {
		if err := x.honest(c, out, rel.Terms); err != nil {
			return nil, err
		}
	}
	sums, err := opener.Sums()
	return &sum{
		control: control, metrics: opener.Metrics(control), digest: task.DigestOf(result), sums: sums, decrypting: o.decrypting,
	}, err
}

// opened is what decryption needs of a release.
func opened(rel *task.Release, m *task.Manifest) seal.Release {
	out := seal.Release{Secret: rel.Secret, Terms: rel.Terms, WeightSum: rel.Weights, Squares: rel.Squares}
	for _, e := range m.Entries {
		out.Members = append(out.Members, seal.Member{Client: e.Client, Weight: e.Weight})
	}
	return out
}

// await returns when the round is published.
func (x *Client) await(ctx context.Context, c *Contribution, progress Progress) error {
	seen := uint32(0)
	progress(Wait, 0, int64(len(x.task.Members)))
	for {
		var status *pb.RoundStatus
		// A service that restarts comes back and goes on with the round.
		if err := x.patiently(ctx, func() (err error) {
			status, err = x.rounds.AwaitRound(ctx, &pb.AwaitRequest{
				Task: x.task.Name, Round: c.Round.Spec.Round, State: pb.RoundState_PUBLISHED, Seconds: poll, Live: true, Seen: seen,
			})
			if err != nil {
				return x.facts(ctx, c, fromAggregator(err))
			}
			// What the aggregator says of a round's end is asked of the key service.
			switch status.State {
			case pb.RoundState_KEYS_DESTROYED:
				return x.facts(ctx, c, &claim{"aggregator", errs.ErrKeysDestroyed})
			case pb.RoundState_ABORTED:
				return x.facts(ctx, c, &claim{"aggregator", errs.ErrAborted})
			}
			return nil
		}); err != nil {
			return err
		}
		// An aggregator that says nothing of an end may not know of it, or keep it to
		// itself: the key service is asked too, when a whole call brought no news.
		if status.Committed == seen && status.State != pb.RoundState_PUBLISHED {
			if _, err := x.ended(ctx, c); err != nil && !passing(err) {
				return err
			}
		}
		seen = status.Committed
		progress(Wait, int64(status.Committed), int64(status.Enrolled))
		if status.State == pb.RoundState_PUBLISHED {
			return nil
		}
	}
}

// decision verifies the key service's signature on what it decided.
func (x *Client) decision(c *Contribution, in *pb.Signed) (*task.Decision, error) {
	object := task.Signed{Bytes: in.GetObject(), Signature: in.GetSignature()}
	if err := object.Verify(x.task.KMS); err != nil {
		return nil, fmt.Errorf("the decision on round %d: %w", c.Round.Spec.Round, err)
	}
	d, err := task.ParseDecision(object.Bytes)
	if err != nil {
		return nil, err
	}
	if d.Spec != c.Round.Digest {
		return nil, fmt.Errorf("a decision on another round: %w", errs.ErrDecided)
	}
	return d, nil
}

// release fetches what opens the sum and verifies all of it: decision, set,
// and that the decision stands in the audit log.
func (x *Client) release(ctx context.Context, c *Contribution) (*task.Release, *audit.Checkpoint, *task.Manifest, error) {
	var reply *pb.ReleaseReply
	if err := x.patiently(ctx, func() (err error) {
		reply, err = x.keys.FetchRelease(ctx, &pb.ReleaseRequest{Spec: c.Round.Digest[:], KnownSize: x.known()})
		return x.facts(ctx, c, fromKeys(err))
	}); err != nil {
		return nil, nil, nil, err
	}
	d, err := x.decision(c, reply.Decision)
	if err != nil {
		return nil, nil, nil, err
	}
	m, err := x.manifest(c, d, reply.Manifest)
	if err != nil {
		return nil, nil, nil, err
	}
	_, checkpoint, err := x.logged(c, reply.Decision, d, reply.Proof)
	if err != nil {
		return nil, nil, nil, err
	}
	to := task.Addressee{Spec: c.Round.Digest, Manifest: d.Manifest, Client: x.name}
	message, err := c.reply.Open(envelope.Release, to.Canonical(), reply.Sealed)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("the release: %w", err)
	}
	defer clear(message)
	rel, err := task.ParseRelease(message)
	if err != nil {
		return nil, nil, nil, err
	}
	if rel.Mode != x.task.Mode {
		return nil, nil, nil, fmt.Errorf("a release of another mode: %w", errs.ErrDecided)
	}
	return rel, checkpoint, m, rel.Matches(d)
}

// manifest verifies the set: signed by the aggregator, named by the decision,
// of enrolled clients that all started from this model, this contribution in
// it, and not smaller than the task demands.
func (x *Client) manifest(c *Contribution, d *task.Decision, in *pb.Signed) (*task.Manifest, error) {
	object := task.Signed{Bytes: in.GetObject(), Signature: in.GetSignature()}
	if err := object.Verify(x.task.Aggregator); err != nil {
		return nil, fmt.Errorf("the manifest of round %d: %w", c.Round.Spec.Round, err)
	}
	m, err := task.ParseManifest(object.Bytes)
	if err != nil {
		return nil, err
	}
	if d.Outcome != task.Released || object.Digest() != d.Manifest || m.Spec != c.Round.Digest {
		return nil, fmt.Errorf("the manifest is not that of the decision: %w", errs.ErrDecided)
	}
	if n := len(m.Entries); n < int(x.task.MinCohort) || n > int(x.task.MaxClients) {
		return nil, fmt.Errorf("a cohort of %d, the task demands %d to %d: %w", n, x.task.MinCohort, x.task.MaxClients, errs.ErrManifest)
	}
	mine := false
	for _, e := range m.Entries {
		if _, ok := x.task.Member(e.Client); !ok || e.ModelDigest != c.Round.Spec.ModelDigest {
			return nil, fmt.Errorf("%s does not belong in this cohort: %w", e.Client, errs.ErrManifest)
		}
		if e.Client != x.name {
			continue
		}
		if want := (task.Entry{Client: x.name, Root: c.root, ModelDigest: c.Round.Spec.ModelDigest, Weight: x.public(c)}); e != want {
			return nil, fmt.Errorf(
				"the manifest of round %d has this client with other values than it committed (weight %d, not %d): %w",
				c.Round.Spec.Round, e.Weight, want.Weight, errs.ErrManifest)
		}
		mine = true
	}
	if !mine {
		return nil, fmt.Errorf("round %d: %w", c.Round.Spec.Round, errs.ErrNotInCohort)
	}
	return m, nil
}

// result fetches and verifies the result's description.
func (x *Client) result(ctx context.Context, c *Contribution, rel *task.Release) (*task.Result, error) {
	reply, err := x.rounds.GetResult(ctx, &pb.SpecId{Spec: c.Round.Digest[:]})
	if err != nil {
		return nil, fromAggregator(err)
	}
	object := task.Signed{Bytes: reply.Result.GetObject(), Signature: reply.Result.GetSignature()}
	if err := object.Verify(x.task.Aggregator); err != nil {
		return nil, fmt.Errorf("the result of round %d: %w", c.Round.Spec.Round, err)
	}
	r, err := task.ParseResult(object.Bytes)
	if err != nil {
		return nil, err
	}
	if r.Spec != c.Round.Digest || r.Manifest != rel.Manifest || r.Terms != rel.Terms || r.Frames != uint32(c.sealer.Frames()) {
		return nil, fmt.Errorf("the result is not that of the released set: %w", errs.ErrTag)
	}
	return r, nil
}

// opening is a result on its way in.
type opening struct {
	client     *Client
	c          *Contribution
	opener     *seal.Opener
	out        []float32
	progress   Progress
	decrypting time.Duration
}

// window is how many frames are decrypted together, so that every core has some.
const window = 32

// run downloads the result's frames, decrypts them and compares their root
// with the signed one: out is meaningless unless it returns nil.
func (o *opening) run(ctx context.Context, result *task.Result) ([]uint64, error) {
	g := o.opener.Geometry()
	last := g.ControlIndex()
	var control []byte
	if err := o.get(ctx, last, last+1, func(b []byte) error {
		control = bytes.Clone(b)
		return nil
	}); err != nil {
		return nil, err
	}
	entries, err := o.opener.OpenControl(control)
	if err != nil {
		return nil, err
	}
	var tree merkle.Tree
	var held [][]byte
	first, index := 0, 0
	flush := func() error {
		began := time.Now()
		defer func() { o.decrypting += time.Since(began) }()
		from, _ := o.opener.Span(first)
		_, to := o.opener.Span(first + len(held) - 1)
		if err := o.opener.OpenRange(ctx, first, held, o.out[from:to]); err != nil {
			return err
		}
		first += len(held)
		held = held[:0]
		o.progress(Decrypt, int64(first), int64(last))
		return nil
	}
	var room [window][]byte
	if err := o.get(ctx, 0, last, func(b []byte) error {
		if index >= last {
			return fmt.Errorf("more frames than the result has: %w", errs.ErrFrame)
		}
		tree.Append(merkle.Leaf(b))
		k := len(held)
		room[k] = append(room[k][:0], b...)
		held = append(held, room[k])
		index++
		o.progress(Download, int64(index), int64(last))
		if len(held) == window || index == last {
			return flush()
		}
		return nil
	}); err != nil {
		return nil, err
	}
	tree.Append(merkle.Leaf(control))
	if index != last || task.Digest(tree.Root()) != result.Root {
		return nil, fmt.Errorf("the result's frames are not those that the aggregator signed: %w", errs.ErrRoot)
	}
	return entries, nil
}

func (o *opening) get(ctx context.Context, from, to int, emit func([]byte) error) error {
	g := o.opener.Geometry()
	limit := max(g.FrameSize(0), g.FrameSize(g.ControlIndex()))
	err := arrowio.GetFrames(ctx, o.client.aggregator, rpc.Ticket(o.c.Round.Digest, from, to), limit, emit)
	return fromAggregator(err)
}

// report gathers what the round cost and gave.
func (x *Client) report(c *Contribution, rel *task.Release, m *task.Manifest, control []uint64, mean []float32,
	result task.Digest, checkpoint *audit.Checkpoint,
) *Report {
	r := &Report{
		Task: x.task.Name, Round: c.Round.Spec.Step, ServiceRound: c.Round.Spec.Round, Mode: x.task.Mode.String(), Preset: x.task.Preset, Bits: x.task.Bits,
		Cohort: rel.Terms, Weight: c.weight, WeightSum: control[params.ControlWeight], Values: c.round.Values(),
		Clipped: map[string]uint64{}, ClippedAll: map[string]uint64{}, EffectiveBits: map[string]float64{}, Ranges: map[string]float32{},
		ClippedTotal: control[params.ControlClipped], Seconds: c.seconds, Bounds: map[string]float64{},
		ResultDigest: result.String(), SpecDigest: c.Round.Digest.String(), Checkpoint: checkpoint.Text, Attempts: 1, Spent: c.Round.Spec.Spent() + 1,
	}
	for _, e := range m.Entries {
		r.Clients = append(r.Clients, e.Client)
	}
	plain := seal.Release{Terms: rel.Terms, WeightSum: rel.Weights, Squares: rel.Squares}
	order := c.round.Controls()
	weighting := roundedWeights(x.task, m)
	for i, t := range c.round.Tensors {
		if c.clipped[i] > 0 {
			r.Clipped[t.Name] = c.clipped[i]
		}
		if order.Tensors > 0 && control[order.Clipped(i)] > 0 {
			r.ClippedAll[t.Name] = control[order.Clipped(i)]
		}
		r.Ranges[t.Name] = t.Range
		r.EffectiveBits[t.Name] = c.effectiveBits(i)
		b := c.round.BoundOf(t, plain, r.WeightSum)
		if t.Precise {
			b += rounded(mean[:t.Count]) // what is left is mostly that
		}
		mean = mean[t.Count:]
		if x.task.Privacy != nil {
			b *= 2 // values were rounded stochastically before
		}
		b += float64(t.Range) * weighting
		r.Bounds[t.Name] = b
		r.StatedBound = max(r.StatedBound, b)
	}
	if p := x.task.Privacy; p != nil {
		r.Noise = p.Noise(rel.Terms) / float64(rel.Terms)
	}
	up, down := x.meter.Bytes()
	r.BytesUp, r.BytesDown = up-c.up0, down-c.down0
	return r
}

// rounded is the largest error of rounding such values to float32.
func rounded(values []float32) float64 {
	largest := float32(0)
	for _, v := range values {
		largest = max(largest, v, -v)
	}
	return max(float64(largest)*0x1p-24, 0x1p-150)
}

// effectiveBits is how many of the scheme's bits the largest value of tensor k
// used.
func (c *Contribution) effectiveBits(k int) float64 {
	largest := float64(c.largest[k])
	if c.round.Scheme.Mode == params.SumKey {
		largest *= float64(c.weight) / float64(c.round.WeightCap)
	}
	bits := float64(c.round.Scheme.Bits)
	if largest == 0 {
		return 0
	}
	return max(0, min(bits, bits+math.Log2(largest/float64(c.round.Tensors[k].Range))))
}

// Average contributes an update and collects the mean, trying again with the
// same update in the next round when the key service signed an abort.
func (x *Client) Average(ctx context.Context, u Update, out []float32, progress Progress) (*Report, error) {
	for attempt := 1; ; attempt++ {
		c, _, err := x.Give(ctx, u, progress)
		var report *Report
		if err == nil {
			report, err = x.Collect(ctx, c, out, progress)
		}
		switch {
		case err == nil:
			report.Attempts = attempt
			return report, nil
		case !errors.Is(err, errs.ErrAborted):
			return nil, err
		}
	}
}
