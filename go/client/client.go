// Package client is one party's way through the rounds of a task: it verifies
// what others signed, encrypts and uploads an update, and opens the sum.
//
// # Security
//
// The task must be signed by the admin's key that the caller pins; every
// specification, decision and deposit receipt by the key service's key, every
// receipt, manifest and result by the aggregator's, both of which the task
// names. A release must be proven in the key service's audit log, which must
// continue the log seen before. The two secrets of a contribution live as long
// as it does and never leave memory, except that the key seed is sealed to the
// round's key. The same update is contributed again only after the key
// service's signed abort.
//
// # Ownership
//
// Values passed to Contribute are read until Collect returns and are never
// written to.
package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/tag"
	"github.com/cryptflow/cryptflow/go/task"
)

// Config says whom to talk to and as whom.
type Config struct {
	Aggregator, KMS string // host:port
	Task            string
	Credentials     *identity.Credentials
	Admin           task.Key // who may sign the task
	Threads         int
	// Patience is how long nothing may move before a call gives up.
	Patience time.Duration
	// Dial is added to both connections: tracing, and tests that cut calls off.
	Dial []grpc.DialOption
}

// Client is a connected member of a task. One round at a time.
type Client struct {
	c          Config
	name       string
	aggregator *grpc.ClientConn
	kms        *grpc.ClientConn
	rounds     pb.AggregatorServiceClient
	keys       pb.KeyServiceClient
	meter      *rpc.Meter
	task       *task.Task
	kmsName    string
	peer       identity.Identity // of the aggregator

	mu     sync.Mutex
	model  task.Digest       // that this client holds
	next   uint32            // least round it may contribute to
	kind   task.Kind         // of that round
	step   uint32            // updates that this client has seen published
	ranges []float32         // agreed on; nil until they are
	agreed agreement         // not reported yet
	open   *Contribution     // deposited, and its round's end not seen; or nil
	owing  bool              // proof that it holds the first model, which nobody keeps
	seen   *audit.Checkpoint // of the key service's log
}

const defaultPatience = 10 * time.Minute

// Connect fetches and verifies the task.
func Connect(ctx context.Context, c Config) (*Client, error) {
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	x := &Client{c: c, name: c.Credentials.Self.Name, meter: &rpc.Meter{}}
	if c.Credentials.Self.Role != identity.Client {
		return nil, fmt.Errorf("%s is not a client's certificate: %w", c.Credentials.Self, errs.ErrCertificate)
	}
	var err error
	if x.aggregator, err = x.dial(c.Aggregator, identity.Aggregator); err != nil {
		return nil, err
	}
	if x.kms, err = x.dial(c.KMS, identity.KMS); err != nil {
		return nil, errors.Join(err, x.aggregator.Close())
	}
	x.rounds, x.keys = pb.NewAggregatorServiceClient(x.aggregator), pb.NewKeyServiceClient(x.kms)
	if err := x.meet(ctx); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return x, nil
}

// dial prepares a metered connection to a service.
func (x *Client) dial(address string, service identity.Role) (*grpc.ClientConn, error) {
	return rpc.Dial(address, x.c.Credentials, service, false, x.options()...)
}

func (x *Client) options() []grpc.DialOption {
	return append([]grpc.DialOption{
		grpc.WithStatsHandler(x.meter), grpc.WithChainUnaryInterceptor(x.withDeadline), grpc.WithChainStreamInterceptor(x.withProgress),
	}, x.c.Dial...)
}

// meet gets the task from the key service, which the aggregator's operator
// does not control, and verifies it.
func (x *Client) meet(ctx context.Context) error {
	info, err := x.keys.Info(ctx, &pb.Empty{})
	if err != nil {
		return fromKeys(err)
	}
	reply, err := x.keys.GetTask(ctx, &pb.TaskName{Name: x.c.Task})
	if err != nil {
		return fromKeys(err)
	}
	object := task.Signed{Bytes: reply.Object, Signature: reply.Signature}
	if err := object.Verify(x.c.Admin); err != nil {
		return fmt.Errorf("task %s is not signed by the admin that this profile trusts: %w", x.c.Task, err)
	}
	if x.task, err = task.ParseTask(object.Bytes); err != nil {
		return err
	}
	if x.task.Name != x.c.Task {
		return fmt.Errorf("asked for task %q, got %q: %w", x.c.Task, x.task.Name, errs.ErrNoTask)
	}
	if _, ok := x.task.Member(x.name); !ok {
		return fmt.Errorf("%s in task %s: %w", x.name, x.task.Name, errs.ErrNotEnrolled)
	}
	x.kmsName, x.model, x.kind = info.Name, x.task.InitialModel, x.task.Ranges.First()
	answering := &peer.Peer{}
	status, err := x.rounds.GetTask(ctx, &pb.TaskName{Name: x.task.Name}, grpc.Peer(answering))
	if err = rpc.FromStatus(err, "aggregator"); errors.Is(err, errs.ErrNoTask) {
		return fmt.Errorf("the key service has task %s and the aggregator does not: its admin runs the same creation again, "+
			"and clients start after that: %w", x.task.Name, errs.ErrTaskCreating)
	}
	if err != nil {
		return err
	}
	if x.peer, err = rpc.PeerIn(answering); err != nil {
		return err
	}
	if !bytes.Equal(status.Task.GetObject(), object.Bytes) {
		return fmt.Errorf("aggregator and key service hold different tasks called %s: %w", x.task.Name, errs.ErrSpec)
	}
	return nil
}

// Close ends the connections.
func (x *Client) Close() error { return errors.Join(x.aggregator.Close(), x.kms.Close()) }

// Task is what the admin signed.
func (x *Client) Task() *task.Task { return x.task }

// Describe is the task as adapters need it.
func (x *Client) Describe() ([]byte, error) {
	t := x.task
	scheme, err := t.Scheme()
	if err != nil {
		return nil, err
	}
	type tensor struct {
		Name  string   `json:"name"`
		Shape []uint64 `json:"shape"`
		Range float32  `json:"range"`
		// How the tensor travels, and where it stays.
		Precise     bool `json:"precise"`
		NonNegative bool `json:"nonnegative"`
	}
	layout := make([]tensor, len(t.Layout))
	for i, l := range t.Layout {
		layout[i] = tensor{l.Name, append([]uint64{}, l.Shape...), l.Range, l.Precise, l.NonNegative}
	}
	out := map[string]any{
		"task": t.Name, "client": x.name, "mode": t.Mode.String(), "preset": t.Preset, "bits": t.Bits,
		"rounding": t.Rounding.String(), "encoding": t.Encoding.String(), "rounds": t.Rounds, "weight_cap": t.WeightCap, "members": len(t.Members),
		"max_clients": t.MaxClients, "min_cohort": t.MinCohort, "deadline": t.Deadline, "values": t.Layout.Values(),
		"ranges": t.Ranges.String(), "metrics": append([]string{}, t.Metrics...),
		"lanes": scheme.Lanes, "layout": layout, "digest": task.DigestOf(t).String(),
	}
	if p := t.Privacy; p != nil {
		out["privacy"] = map[string]any{
			"clip_norm": p.Clip, "noise_multiplier": p.Multiplier, "delta": p.Delta, "colluding": p.Colluding,
			"steps": p.Steps, "bound": p.Bound, "variance": p.Variance, "inflation": p.Inflation(),
		}
	}
	return json.Marshal(out)
}

// Round is one open round, verified.
type Round struct {
	Spec      task.RoundSpec
	Digest    task.Digest
	PublicKey []byte
	tag       tag.Key
}

// poll is how long one call to await a round lasts.
const poll = 20

// Open waits for the round that this client may contribute to next and
// verifies its specification. It returns ErrModelMismatch when that round
// starts from a model that this client does not hold: it came late, or a
// round was sealed without it.
func (x *Client) Open(ctx context.Context) (*Round, error) {
	x.mu.Lock()
	next, model, kind, step := x.next, x.model, x.kind, x.step
	x.mu.Unlock()
	for {
		var status *pb.RoundStatus
		if err := x.patiently(ctx, func() (err error) {
			status, err = x.rounds.AwaitRound(ctx, &pb.AwaitRequest{Task: x.task.Name, Round: next, Latest: true, State: pb.RoundState_KEYED, Seconds: poll})
			return fromAggregator(err)
		}); err != nil {
			return nil, err
		}
		switch {
		case status.Round < next:
			return nil, fmt.Errorf("the aggregator answered with round %d for %d: %w", status.Round, next, errs.ErrState)
		case status.State == pb.RoundState_ABORTED:
			next = status.Round + 1
			continue
		case status.State < pb.RoundState_KEYED:
			continue
		}
		r, err := x.spec(ctx, status.Round)
		if err != nil {
			return nil, err
		}
		if r.Spec.ModelDigest != model {
			return nil, x.behind(r)
		}
		if r.Spec.Kind != kind || r.Spec.Step != step {
			return nil, fmt.Errorf("round %d of %s is of %v after %d updates, not of %v after %d: %w", status.Round, x.task.Name, r.Spec.Kind, r.Spec.Step, kind, step, errs.ErrSpec)
		}
		return r, nil
	}
}

// Joinable says whether this client can take part in the task's next round, as far
// as is known now, so that nobody trains in vain. It returns ErrModelMismatch
// where [Client.Open] will, or ErrTaskEnded.
func (x *Client) Joinable(ctx context.Context) error {
	x.mu.Lock()
	next, model, open := x.next, x.model, x.open
	x.mu.Unlock()
	if open != nil {
		return nil // its round is this client's
	}
	// Nothing is at stake yet: who cannot be reached is an error at once, as for
	// the first model.
	status, err := x.rounds.AwaitRound(ctx, &pb.AwaitRequest{Task: x.task.Name, Round: next, Latest: true, State: pb.RoundState_KEYED})
	if err != nil {
		return fromAggregator(err)
	}
	if status.State < pb.RoundState_KEYED || status.State == pb.RoundState_ABORTED {
		return nil
	}
	r, err := x.spec(ctx, status.Round)
	if err != nil {
		return err
	}
	// A round that is sealed may still be aborted; one that is published moved the
	// model, if it was not about ranges.
	published := status.State >= pb.RoundState_PUBLISHED && r.Spec.Kind == task.KindValues
	if r.Spec.ModelDigest != model || published {
		return x.behind(r)
	}
	return nil
}

func (x *Client) behind(r *Round) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return fmt.Errorf("round %d of %s has another model than this client, which holds %s: it joined late, started again without what it had saved, or a round was sealed without it; it can go on from a checkpoint of its last round, or take part in the next task: %w", r.Spec.Round, x.task.Name, x.model.Short(), errs.ErrModelMismatch)
}

// spec fetches and verifies a round's specification.
func (x *Client) spec(ctx context.Context, n uint32) (*Round, error) {
	var reply *pb.SpecReply
	if err := x.patiently(ctx, func() (err error) {
		reply, err = x.keys.GetSpec(ctx, &pb.SpecRequest{Task: x.task.Name, Round: n})
		return fromKeys(err)
	}); err != nil {
		return nil, err
	}
	object := task.Signed{Bytes: reply.Spec.GetObject(), Signature: reply.Spec.GetSignature()}
	if err := object.Verify(x.task.KMS); err != nil {
		return nil, fmt.Errorf("the specification of round %d: %w", n, err)
	}
	s, err := task.ParseRoundSpec(object.Bytes)
	if err != nil {
		return nil, err
	}
	if err := s.Follows(x.task); err != nil {
		return nil, err
	}
	if s.Round != n {
		return nil, fmt.Errorf("asked for round %d, got %d: %w", n, s.Round, errs.ErrSpec)
	}
	if x.task.Mode == params.SharedKey && digestOf(reply.PublicKey) != s.PublicKey {
		return nil, fmt.Errorf("the public key of round %d is not that of its specification: %w", n, errs.ErrSpec)
	}
	r := &Round{Spec: *s, Digest: object.Digest(), PublicKey: reply.PublicKey}
	if len(reply.TagKey) == len(r.tag) {
		r.tag = tag.Key(reply.TagKey)
	} else if _, err := rand.Read(r.tag[:]); err != nil {
		// The round is decided: whatever is contributed now is refused.
		return nil, fmt.Errorf("drawing a key: %w", errs.ErrInternal)
	}
	return r, nil
}

// sealed is the round as encryption needs it.
func (x *Client) sealed(r *Round) (seal.Round, error) {
	shape, err := x.task.Shape(r.Spec.Kind)
	if err != nil {
		return seal.Round{}, err
	}
	out := seal.Round{
		Scheme: shape.Scheme, SpecDigest: r.Digest, Metrics: shape.Metrics, WeightCap: shape.WeightCap,
		Tag: &r.tag, Nonce: r.Spec.Nonce, PublicKey: r.PublicKey, Canaries: shape.Canaries,
	}
	for _, t := range shape.Layout {
		out.Tensors = append(out.Tensors, seal.Tensor{Name: t.Name, Count: t.Count(), Range: t.Range, Precise: t.Precise})
	}
	if r.Spec.Kind == task.KindValues && x.task.Ranges != task.RangesFixed {
		x.mu.Lock()
		defer x.mu.Unlock()
		if len(x.ranges) != len(out.Tensors) {
			return out, fmt.Errorf("no ranges were agreed on: %w", errs.ErrState)
		}
		for k := range out.Tensors {
			out.Tensors[k].Range = x.ranges[k]
		}
	}
	return out, nil
}

// verified opens a checkpoint and demands that the log continues.
func (x *Client) verified(p *pb.Proof) (*audit.Checkpoint, error) {
	c, err := audit.Open(p.GetCheckpoint(), x.kmsName, ed25519.PublicKey(x.task.KMS[:]))
	if err != nil {
		return nil, err
	}
	if err := c.Includes(p.GetRecord(), p.GetIndex(), p.GetInclusion()); err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := c.Continues(x.seen, p.GetConsistency()); err != nil {
		return nil, err
	}
	x.seen = c
	return c, nil
}
