package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/canary"
	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/task"
)

func digestOf(b []byte) task.Digest { return sha256.Sum256(b) }

// Phase is a part of a round's work.
type Phase string

// Phases, in order. Encryption and upload overlap: what counts as upload is
// the time that encryption waited for the connection.
const (
	// Agree is a round of its own in which the cohort agrees on ranges.
	Agree    Phase = "agree"
	Encrypt  Phase = "encrypt"
	Upload   Phase = "upload"
	Wait     Phase = "wait"
	Download Phase = "download"
	Decrypt  Phase = "decrypt"
)

// Progress is told how much of a phase is done. It returns at once.
type Progress func(phase Phase, done, total int64)

// Contribution is one update on its way through a round.
type Contribution struct {
	Round   *Round
	round   seal.Round
	sealer  *seal.Sealer
	secrets seal.Secrets
	reply   *envelope.Key
	values  []float32 // the caller's, or a private copy
	weight  uint32
	root    task.Digest
	request *pb.DepositRequest // made once: sealing draws, and a key service that has it takes no other
	deposit *pb.Signed         // its receipt
	opened  *sum               // of its round, when only the report is missing
	noted   bool               // the key service has the announcement
	began   bool               // an upload of this contribution exists or existed

	seconds map[Phase]float64
	clipped []uint64
	largest []float32
	up0     int64
	down0   int64
}

// batchBytes is the size of one message of frames.
const batchBytes = 256 << 10

// Update is what a client contributes to a round.
type Update struct {
	Values   []float32 // in layout order
	Examples int64     // num_examples, their weight
	// Metrics are scalars that the task names, for the weighted mean over
	// those clients that give them.
	Metrics map[string]float64
}

// Contribute encrypts an update, uploads it, deposits its key and commits it.
// When it returns nil the aggregator has signed that it holds the whole of it
// durably. A connection that breaks is made again; frames that were
// acknowledged are not sent twice.
func (x *Client) Contribute(ctx context.Context, r *Round, u Update, progress Progress) (*Contribution, error) {
	if err := x.check(u); err != nil {
		return nil, err
	}
	if r.Spec.Kind != task.KindValues {
		return nil, fmt.Errorf("round %d is one of %v: %w", r.Spec.Round, r.Spec.Kind, errs.ErrState)
	}
	return x.contribute(ctx, r, u, progress)
}

func (x *Client) contribute(ctx context.Context, r *Round, u Update, progress Progress) (*Contribution, error) {
	c := &Contribution{Round: r, weight: uint32(u.Examples), seconds: map[Phase]float64{}}
	if x.task.Privacy != nil {
		c.weight = 1
	}
	c.up0, c.down0 = x.meter.Bytes()
	if r.Spec.Kind == task.KindValues {
		c.weight = x.weight(c.weight)
		x.mu.Lock()
		if x.agreed != (agreement{}) {
			c.seconds[Agree] = x.agreed.seconds
			c.up0, c.down0, x.agreed = c.up0-x.agreed.up, c.down0-x.agreed.down, agreement{}
		}
		x.mu.Unlock()
	}
	var err error
	if c.round, err = x.sealed(r); err != nil {
		return nil, err
	}
	if c.secrets, err = seal.NewSecrets(); err != nil {
		return nil, err
	}
	if c.reply, err = envelope.NewKey(); err != nil {
		return nil, err
	}
	began := time.Now()
	if u, err = x.private(u); err != nil {
		return nil, err
	}
	c.values = u.Values
	if c.sealer, err = seal.NewSealer(c.round, c.secrets, u.Values, c.weight, x.c.Threads, seal.From(x.name), seal.WithMetrics(u.Metrics)); err != nil {
		return nil, err
	}
	c.seconds[Encrypt] = time.Since(began).Seconds()
	c.clipped, c.largest = c.sealer.Clipped(), c.sealer.Largest()
	if err := x.deliver(ctx, c, progress); err != nil {
		return nil, err
	}
	return c, nil
}

// deliver uploads, deposits and commits a contribution.
func (x *Client) deliver(ctx context.Context, c *Contribution, progress Progress) error {
	err := x.send(ctx, c, progress)
	x.settle(c, err)
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.next = c.Round.Spec.Round + 1
	x.mu.Unlock()
	return nil
}

// settle forgets a contribution whose end is a fact. From its deposit on, only
// what this client verified ends it: a contribution that might still count is
// never given a second time, whatever a service says of it.
func (x *Client) settle(c *Contribution, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !isStatement(err) {
		return
	}
	x.next = max(x.next, c.Round.Spec.Round+1) // whatever the aggregator says of the round
	if x.open == c {
		x.open = nil
	}
}

// interrupted returns the contribution to a round of such a kind that was
// deposited and of which the end has not been seen, or nil.
func (x *Client) interrupted(kind task.Kind) *Contribution {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.open == nil || x.open.Round.Spec.Kind != kind {
		return nil
	}
	return x.open
}

// Reads reports whether a contribution that was deposited, and whose round's end
// this client has not seen, is made of these very values: they may be read again.
func (x *Client) Reads(values []float32) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.open != nil && len(values) > 0 && len(x.open.values) > 0 && &x.open.values[0] == &values[0]
}

// unfinished returns the contribution to such a round that has been deposited
// and of which the end has not been seen, committed; nil when there is none.
//
// From its deposit on a contribution may count, so the update must not be
// contributed a second time, and only its own secrets open the round's sum.
// Frames that the aggregator lost are sealed again from the same values; the
// sealer refuses values that changed, because two updates under the same
// secrets would uncover both.
func (x *Client) unfinished(ctx context.Context, kind task.Kind, progress Progress) (*Contribution, error) {
	c := x.interrupted(kind)
	if c == nil {
		return nil, nil
	}
	if err := x.deliver(ctx, c, progress); err != nil {
		return nil, err
	}
	return c, nil
}

// Give contributes an update to the next open round. When an earlier
// contribution was interrupted after its deposit, by the caller or by services
// that were away for too long, that one is given instead, and resumed is true:
// its round is the one to collect, and whatever the update holds beyond it is
// the caller's to give to a later round.
func (x *Client) Give(ctx context.Context, u Update, progress Progress) (c *Contribution, resumed bool, err error) {
	if err := x.check(u); err != nil {
		return nil, false, err
	}
	if c, err = x.unfinished(ctx, task.KindValues, progress); c != nil || err != nil {
		return c, true, err
	}
	r, err := x.Ready(ctx, u, progress)
	if err != nil {
		return nil, false, err
	}
	c, err = x.Contribute(ctx, r, u, progress)
	return c, false, err
}

// private is the update that travels in a task with privacy: clipped, rounded,
// with noise of its own each time. The round it was drawn for is the only one
// that it is sent to: an aborted round's is never opened.
func (x *Client) private(u Update) (Update, error) {
	p := x.task.Privacy
	if p == nil {
		return u, nil
	}
	for values, k := u.Values, 0; k < len(x.task.Layout); k++ {
		t := x.task.Layout[k]
		if slices.ContainsFunc(values[:t.Count()], func(v float32) bool { return v-v != 0 }) {
			return u, fmt.Errorf("tensor %q holds NaN or an infinity: %w", t.Name, errs.ErrNotFinite)
		}
		values = values[t.Count():]
	}
	var err error
	u.Values, err = p.Apply(u.Values, x.task.Bits, x.c.Threads)
	return u, err
}

// send uploads and commits until the receipt is there. Whether to go on is
// decided by progress, not by the clock alone: patience starts anew with every
// acknowledged frame.
func (x *Client) send(ctx context.Context, c *Contribution, progress Progress) error {
	p, best, fresh := x.patience(), -1, !c.began
	acked := func(next int) {
		if next > best {
			best = next
			p.progress()
		}
	}
	for {
		err := x.attempt(ctx, c, fresh, acked, progress)
		if err == nil {
			return nil
		}
		err = x.facts(ctx, c, err)
		if c.began {
			fresh = false
		}
		if end := p.again(ctx, err); end != nil {
			return end
		}
	}
}

// attempt is one try to upload what is missing and to commit.
func (x *Client) attempt(ctx context.Context, c *Contribution, fresh bool, acked func(int), progress Progress) error {
	spec := c.Round.Digest[:]
	if err := x.announce(ctx, c); err != nil {
		return err
	}
	began := time.Now()
	upload, err := x.rounds.BeginUpload(ctx, &pb.BeginRequest{Spec: spec, Fresh: fresh})
	if err != nil {
		return fromAggregator(err)
	}
	c.began = true
	if upload.Upload == "" && fresh {
		return fmt.Errorf("another process of %s has contributed to round %d: %w", x.name, c.Round.Spec.Round, errs.ErrContribution)
	}
	if upload.Upload != "" {
		if err := x.put(ctx, c, upload, acked, progress); err != nil {
			return err
		}
	}
	c.seconds[Upload] += time.Since(began).Seconds()
	began = time.Now()
	defer func() { c.seconds[Upload] += time.Since(began).Seconds() }()
	if err := x.depositKey(ctx, c); err != nil {
		return err
	}
	return x.commit(ctx, c, upload.Upload)
}

// announce tells the key service, before anything is uploaded, that this client
// will contribute: a set that leaves out many who announced is not opened.
func (x *Client) announce(ctx context.Context, c *Contribution) error {
	if c.noted {
		return nil
	}
	a := &task.Announcement{Spec: c.Round.Digest, Client: x.name, ModelDigest: c.Round.Spec.ModelDigest}
	receipt, err := x.keys.Announce(ctx, &pb.AnnounceRequest{Announcement: a.Canonical(), Checkpoint: x.checkpoint()})
	if err != nil {
		return fromKeys(err)
	}
	if err := x.receipt(receipt, a); err != nil {
		return fmt.Errorf("the announcement's receipt: %w", err)
	}
	c.noted = true
	return nil
}

// receipt reports ErrSignature unless the key service signed these very bytes.
func (x *Client) receipt(in *pb.Signed, want task.Object) error {
	object := task.Signed{Bytes: in.GetObject(), Signature: in.GetSignature()}
	if err := object.Verify(x.task.KMS); err != nil {
		return err
	}
	if !bytes.Equal(object.Bytes, want.Canonical()) {
		return fmt.Errorf("it is of something else: %w", errs.ErrSignature)
	}
	return nil
}

// put sends the frames from first on. It attributes the time in which no frame
// was waiting for the connection to encryption.
func (x *Client) put(ctx context.Context, c *Contribution, upload *pb.UploadInfo, acked func(int), progress Progress) error {
	total, first := int64(c.sealer.Frames()), int(upload.Next)
	conn, release, err := x.location(upload.Locations)
	if err != nil {
		return err
	}
	defer release()
	var encrypting time.Duration
	if first < c.sealer.Frames() {
		err := arrowio.PutFrames(ctx, conn, upload.Upload, first, func(emit func(int, []byte) error) error {
			mark := time.Now()
			return c.sealer.Seal(ctx, first, c.sealer.Frames(), func(i int, frame []byte) error {
				encrypting += time.Since(mark)
				progress(Encrypt, int64(i+1), total)
				defer func() { mark = time.Now() }()
				return emit(i, frame)
			})
		}, batchBytes, func(next int) {
			acked(next)
			progress(Upload, int64(next), total)
		})
		if err != nil {
			return fromAggregator(err)
		}
	}
	c.seconds[Encrypt] += encrypting.Seconds()
	c.seconds[Upload] -= encrypting.Seconds()
	var tree merkle.Tree
	for i := range c.sealer.Frames() {
		leaf, ok := c.sealer.Leaf(i)
		if !ok {
			return fmt.Errorf("frame %d was never sealed: %w", i, errs.ErrInternal)
		}
		tree.Append(leaf)
	}
	own, ok := c.sealer.Canary()
	if ok != (c.sealer.Geometry().Canaries > 0) {
		return fmt.Errorf("the canaries were never sealed: %w", errs.ErrInternal)
	}
	c.root = canary.Root(tree, own)
	return nil
}

// location connects to where frames are to be sent: the connection there is,
// when the aggregator answers with its own address or none. Another address must
// be the same aggregator's by its certificate.
func (x *Client) location(locations []string) (*grpc.ClientConn, func(), error) {
	if len(locations) == 0 || slices.Contains(locations, x.c.Aggregator) {
		return x.aggregator, func() {}, nil
	}
	conn, err := rpc.DialPeer(locations[0], x.c.Credentials, x.peer, x.options()...)
	if err != nil {
		return nil, nil, err
	}
	return conn, func() { _ = conn.Close() }, nil // nothing is in flight any more
}

// depositKey seals the contribution's key seed to the round's key, once.
func (x *Client) depositKey(ctx context.Context, c *Contribution) error {
	if c.deposit != nil {
		return nil
	}
	d := &task.Deposit{
		Spec: c.Round.Digest, Client: x.name, ModelDigest: c.Round.Spec.ModelDigest, Root: c.root, Weight: x.public(c),
	}
	if c.request == nil {
		var seed []byte
		if x.task.Mode == params.SumKey {
			seed = bytes.Clone(c.secrets.Key[:])
			defer clear(seed)
		}
		sealed, err := envelope.Seal(c.Round.Spec.HPKE, envelope.Deposit, d.Canonical(), seed)
		if err != nil {
			return err
		}
		c.request = &pb.DepositRequest{Deposit: d.Canonical(), Sealed: sealed, ReplyKey: c.reply.Public()}
	}
	x.mu.Lock()
	x.open = c
	x.mu.Unlock()
	receipt, err := x.keys.Deposit(ctx, c.request)
	if err != nil {
		return fromKeys(err)
	}
	if err := x.receipt(receipt, d); err != nil {
		return fmt.Errorf("the deposit's receipt: %w", err)
	}
	c.deposit = receipt
	return nil
}

// public is the integer weight that everybody sees: 1 in sum-key, where the
// client applies its weight itself.
func (x *Client) public(c *Contribution) uint32 {
	if x.task.Mode == params.SharedKey {
		return c.weight
	}
	return 1
}

// commit makes the contribution part of the round and verifies the receipt.
func (x *Client) commit(ctx context.Context, c *Contribution, upload string) error {
	public := x.public(c)
	reply, err := x.rounds.Commit(ctx, &pb.CommitRequest{Upload: upload, Spec: c.Round.Digest[:], Root: c.root[:], Weight: public, Deposit: c.deposit})
	if err != nil {
		return fromAggregator(err)
	}
	receipt := task.Signed{Bytes: reply.Object, Signature: reply.Signature}
	if err := receipt.Verify(x.task.Aggregator); err != nil {
		return fmt.Errorf("the contribution's receipt: %w", err)
	}
	got, err := task.ParseReceipt(receipt.Bytes)
	if err != nil {
		return err
	}
	want := task.Receipt{Spec: c.Round.Digest, Client: x.name, Root: c.root, Frames: uint32(c.sealer.Frames()), Bytes: uint64(c.sealer.Geometry().Size()), Weight: public}
	if *got != want {
		return fmt.Errorf("the receipt is of another contribution: %w", errs.ErrSignature)
	}
	return nil
}
