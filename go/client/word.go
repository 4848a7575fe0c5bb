package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// claim is what a service says about how a round ended. It is a peer's word and
// not a fact: it reads as ErrUnavailable until the key service's signed decision,
// proven in its log, says the same.
type claim struct {
	service string
	said    error
}

func (c *claim) Error() string {
	return fmt.Sprintf("the %s says %q, which no signed decision shows yet: %s", c.service, errs.Format(c.said), errs.ErrUnavailable.Text)
}

func (*claim) Unwrap() error { return errs.ErrUnavailable }

// statements are the errors that speak about a round's end. They reach a caller
// only when this client verified them.
var statements = []error{
	errs.ErrAborted, errs.ErrNotInCohort, errs.ErrDecided, errs.ErrKeysDestroyed, errs.ErrFailed,
}

func isStatement(err error) bool {
	return slices.ContainsFunc(statements, func(s error) bool { return errors.Is(err, s) })
}

// said turns the answer of a service into an error of ours.
func said(err error, service string) error {
	if err = rpc.FromStatus(err, service); err != nil && isStatement(err) {
		return &claim{service, err}
	}
	return err
}

func fromAggregator(err error) error { return said(err, "aggregator") }
func fromKeys(err error) error       { return said(err, "key service") }

// facts says what a claim about a contribution's round comes to: what the key
// service decided and logged. It returns err itself when err is no claim, or when
// nothing is decided yet, so that the caller's patience goes on.
func (x *Client) facts(ctx context.Context, c *Contribution, err error) error {
	var told *claim
	if !errors.As(err, &told) || ctx.Err() != nil {
		return err
	}
	switch released, ended := x.ended(ctx, c); {
	case ended != nil:
		return ended
	case released:
		return fmt.Errorf("%w; the key service released round %d to a set with this client", err, c.Round.Spec.Round)
	}
	return err
}

// ended asks the key service how a contribution's round ended for this client and
// returns that as an error, once it is proven. Without one the round is undecided,
// or released to a set with this client and still open to it.
func (x *Client) ended(ctx context.Context, c *Contribution) (released bool, err error) {
	d, record, reply, err := x.outcome(ctx, c)
	switch {
	case err != nil || d == nil:
		return false, err
	case d.Outcome == task.Aborted:
		return false, fmt.Errorf("round %d: %s: %w", c.Round.Spec.Round, d.Reason, errs.ErrAborted)
	case !slices.Contains(record.Clients, x.name):
		return false, fmt.Errorf("round %d: %w", c.Round.Spec.Round, errs.ErrNotInCohort)
	case reply.Destroyed != nil:
		return false, x.destroyed(c, reply.Destroyed)
	}
	return true, nil
}

// outcome fetches the key service's decision on a contribution's round and
// verifies its signature and that it stands in the log, which must continue the
// log seen before. The decision is nil while there is none.
func (x *Client) outcome(
	ctx context.Context, c *Contribution,
) (*task.Decision, *audit.Record, *pb.DecisionReply, error) {
	reply, err := x.keys.GetDecision(ctx, &pb.SpecId{Spec: c.Round.Digest[:], KnownSize: x.known()})
	if err != nil {
		return nil, nil, nil, fromKeys(err)
	}
	if reply.Decision == nil {
		return nil, nil, reply, nil
	}
	d, err := x.decision(c, reply.Decision)
	if err != nil {
		return nil, nil, nil, err
	}
	record, _, err := x.logged(c, reply.Decision, d, reply.Proof)
	return d, record, reply, err
}

// logged verifies that a decision stands in the key service's log.
func (x *Client) logged(
	c *Contribution, signed *pb.Signed, d *task.Decision, proof *pb.Proof,
) (*audit.Record, *audit.Checkpoint, error) {
	want := audit.Released
	if d.Outcome == task.Aborted {
		want = audit.Aborted
	}
	record, checkpoint, err := x.recorded(c, proof, want)
	if err == nil && record.Detail != digestOf(signed.GetObject()).String() {
		err = fmt.Errorf("the log's record is of another decision: %w", errs.ErrAudit)
	}
	return record, checkpoint, err
}

// recorded verifies that an event of a contribution's round stands in the key
// service's log, which must continue the log seen before.
func (x *Client) recorded(
	c *Contribution, proof *pb.Proof, event audit.Event,
) (*audit.Record, *audit.Checkpoint, error) {
	checkpoint, err := x.verified(proof)
	if err != nil {
		return nil, nil, err
	}
	record := &audit.Record{}
	if json.Unmarshal(proof.GetRecord(), record) != nil || record.Event != event || record.Spec != c.Round.Digest.String() {
		return nil, nil, fmt.Errorf("the log's record is not %q of round %d: %w", event, c.Round.Spec.Round, errs.ErrAudit)
	}
	return record, checkpoint, nil
}

// destroyed is the error of a round whose release is gone, if the log says so.
func (x *Client) destroyed(c *Contribution, proof *pb.Proof) error {
	record, _, err := x.recorded(c, proof, audit.KeysDestroyed)
	if err != nil {
		return err
	}
	return fmt.Errorf("round %d: %s: %w", c.Round.Spec.Round, record.Detail, errs.ErrKeysDestroyed)
}

// known is the size of the key service's log that this client saw last.
func (x *Client) known() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.seen == nil {
		return 0
	}
	return x.seen.Size
}

// checkpoint is the last checkpoint of the key service's log that this client saw.
// It shows it to the key service again, so that a copy that knows less is noticed.
func (x *Client) checkpoint() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.seen == nil {
		return ""
	}
	return x.seen.Text
}
