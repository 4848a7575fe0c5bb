package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
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
	var result *task.Result
	if err := x.patiently(ctx, func() (err error) {
		result, err = x.result(ctx, c, rel)
		return err
	}); err != nil {
		return nil, err
	}
	opener, err := seal.NewOpener(c.round, opened(rel, manifest), x.c.Threads)
	if err != nil {
		return nil, err
	}
	o := &opening{client: x, c: c, opener: opener, out: out, progress: progress}
	var control []uint64
	if err := x.patiently(ctx, func() (err error) {
		control, err = o.run(ctx, result)
		return err
	}); err != nil {
		return nil, err
	}
	if err := opener.Verify(); err != nil {
		return nil, err
	}
	if err := opener.Finish(out); err != nil {
		return nil, err
	}
	c.seconds[Decrypt] += o.decrypting.Seconds()
	c.seconds[Download] += (time.Since(began) - o.decrypting).Seconds()
	digest := task.DigestOf(result)
	// The release ends when everybody has reported; a report that is lost only
	// delays that until its time is over.
	_, _ = x.keys.ReportResult(ctx, &pb.ReportRequest{Spec: c.Round.Digest[:], Result: digest[:]})
	x.mu.Lock()
	x.model = task.NextModel(c.Round.Spec.ModelDigest, c.Round.Digest, digest)
	x.kind, x.step = x.task.Ranges.Next(c.Round.Spec.Kind), c.Round.Spec.Kind.Steps(c.Round.Spec.Step)
	x.open = nil
	x.mu.Unlock()
	report := x.report(c, rel, manifest, control, out, digest, checkpoint)
	report.Metrics = opener.Metrics(control)
	if c.Round.Spec.Kind == task.KindValues {
		x.follow(c, out, control, rel.Terms)
	}
	return report, nil
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
			status, err = x.rounds.AwaitRound(ctx, &pb.AwaitRequest{Task: x.task.Name, Round: c.Round.Spec.Round, State: pb.RoundState_PUBLISHED, Seconds: poll, Live: true, Seen: seen})
			return rpc.FromStatus(err, "aggregator")
		}); err != nil {
			return err
		}
		seen = status.Committed
		progress(Wait, int64(status.Committed), int64(status.Enrolled))
		switch status.State {
		case pb.RoundState_PUBLISHED:
			return nil
		case pb.RoundState_KEYS_DESTROYED:
			return fmt.Errorf("round %d: %w", c.Round.Spec.Round, errs.ErrKeysDestroyed)
		case pb.RoundState_ABORTED:
			return x.aborted(ctx, c)
		}
	}
}

// aborted returns ErrAborted if the key service signed the abort; nobody
// else's word makes a client contribute the same update again.
func (x *Client) aborted(ctx context.Context, c *Contribution) error {
	var reply *pb.DecisionReply
	if err := x.patiently(ctx, func() (err error) {
		reply, err = x.keys.GetDecision(ctx, &pb.SpecId{Spec: c.Round.Digest[:]})
		return rpc.FromStatus(err, "key service")
	}); err != nil {
		return err
	}
	d, err := x.decision(c, reply.Decision)
	if err != nil {
		return err
	}
	if d.Outcome != task.Aborted {
		return fmt.Errorf("the aggregator says that round %d was aborted and the key service that it was released: %w", c.Round.Spec.Round, errs.ErrDecided)
	}
	return fmt.Errorf("round %d: %s: %w", c.Round.Spec.Round, d.Reason, errs.ErrAborted)
}

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
	x.mu.Lock()
	known := int64(0)
	if x.seen != nil {
		known = x.seen.Size
	}
	x.mu.Unlock()
	var reply *pb.ReleaseReply
	if err := x.patiently(ctx, func() (err error) {
		reply, err = x.keys.FetchRelease(ctx, &pb.ReleaseRequest{Spec: c.Round.Digest[:], KnownSize: known})
		return rpc.FromStatus(err, "key service")
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
	checkpoint, err := x.verified(reply.Proof)
	if err != nil {
		return nil, nil, nil, err
	}
	var record audit.Record
	if json.Unmarshal(reply.Proof.Record, &record) != nil || record.Event != audit.Released || record.Spec != c.Round.Digest.String() || record.Detail != digestOf(reply.Decision.Object).String() {
		return nil, nil, nil, fmt.Errorf("the log's record is of another decision: %w", errs.ErrAudit)
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
		mine = mine || (e.Client == x.name && e.Root == c.root)
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
		return nil, rpc.FromStatus(err, "aggregator")
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
		return nil, fmt.Errorf("the result is not that of the released set: %w", errs.ErrDecided)
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
	return rpc.FromStatus(err, "aggregator")
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
		ResultDigest: result.String(), SpecDigest: c.Round.Digest.String(), Checkpoint: checkpoint.Text, Attempts: 1,
	}
	for _, e := range m.Entries {
		r.Clients = append(r.Clients, e.Client)
	}
	plain := seal.Release{Terms: rel.Terms, WeightSum: rel.Weights, Squares: rel.Squares}
	order := c.round.Controls()
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
