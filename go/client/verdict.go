package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// verdictTime is how long a client waits for the rest of its cohort to say what
// it opened. The key service waits as long before it opens the next round.
const verdictTime = 30 * time.Second

// broken reports whether an error says that a released sum does not open, rather
// than that it could not be fetched.
func broken(err error) bool {
	return errs.Find(err).Kind == errs.Corrupt || errors.Is(err, errs.ErrFrameContext)
}

// agreeOn tells the key service, signed by this client's certificate, what the
// released sum opened to, and waits for the verdict of the cohort's majority. A
// zero sums says that it did not open. It returns ErrFailed when the majority
// could not open the sum, and ErrDiverged when it opened another one. A cohort
// that does not answer in time is no error; a key service that does not take the
// report is.
func (x *Client) agreeOn(ctx context.Context, c *Contribution, result, sums task.Digest) error {
	own := &task.Report{Spec: c.Round.Digest, Client: x.name, Opening: task.Opened, Result: result, Sums: sums}
	if sums == (task.Digest{}) {
		own.Opening = task.NotOpened
	}
	b := own.Canonical()
	signatures, err := x.c.Credentials.SignEvidence(b)
	if err != nil {
		return err
	}
	end := time.Now().Add(min(verdictTime, x.c.Patience))
	p := x.patience()
	for {
		left := max(0, time.Until(end))
		reply, err := x.keys.ReportResult(ctx, &pb.ReportRequest{
			Spec: c.Round.Digest[:], Report: b, Signature: signatures[0], KnownSize: x.known(), Seconds: uint32(left.Seconds() + 0.5),
		})
		switch {
		case errors.Is(rpc.FromStatus(err, "key service"), errs.ErrSignature) && len(signatures) > 1:
			signatures = signatures[1:]
			continue
		case err == nil && reply.Verdict != nil:
			return x.judged(c, own, reply)
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("%w: %w", errs.ErrCancelled, context.Cause(ctx))
		case err == nil && left == 0:
			return nil // the key service has the report, and the others are late
		case err == nil:
			continue
		}
		if end := p.again(ctx, fromKeys(err)); end != nil {
			return end
		}
	}
}

// judged verifies a verdict and compares it with what this client reported.
func (x *Client) judged(c *Contribution, own *task.Report, reply *pb.ReportReply) error {
	object := task.Signed{Bytes: reply.Verdict.GetObject(), Signature: reply.Verdict.GetSignature()}
	if err := object.Verify(x.task.KMS); err != nil {
		return fmt.Errorf("the verdict on round %d: %w", c.Round.Spec.Round, err)
	}
	v, err := task.ParseVerdict(object.Bytes)
	if err != nil {
		return err
	}
	want := audit.Opened
	if v.Opening == task.NotOpened {
		want = audit.Failed
	}
	record, _, err := x.recorded(c, reply.Proof, want)
	if err != nil {
		return err
	}
	if v.Spec != c.Round.Digest || record.Detail != object.Digest().String() {
		return fmt.Errorf("the log's record is of another verdict: %w", errs.ErrAudit)
	}
	switch {
	case v.Opening == task.NotOpened:
		return fmt.Errorf("round %d: %d of %d clients could not open the sum; %s: %w",
			c.Round.Spec.Round, v.Agree, v.Cohort, whatIsSpent(c.Round.Spec.Kind), errs.ErrFailed)
	case own.Opening == task.Opened && (v.Sums != own.Sums || v.Result != own.Result):
		return fmt.Errorf("round %d: %d of %d clients: %w", c.Round.Spec.Round, v.Agree, v.Cohort, errs.ErrDiverged)
	}
	return nil
}

// whatIsSpent says what a client does after a round that counts for nobody.
func whatIsSpent(k task.Kind) string {
	if k == task.KindRanges {
		return "it was about ranges, and no update was sent: contribute again"
	}
	return "the update counts as spent, train on and contribute to the next round"
}
