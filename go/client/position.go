package client

import (
	"crypto/ed25519"
	"fmt"
	"math"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/task"
)

// Position is how far a client came in a task: what its next round continues.
// Kept with the model, it lets another process go on. It holds no key and
// nothing of an update but the ranges that the whole cohort knows.
type Position struct {
	Task       string    `json:"task"`       // digest
	Model      string    `json:"model"`      // digest of the chain of models held
	Next       uint32    `json:"next"`       // least round that may be contributed to
	Ranges     []float32 `json:"ranges"`     // agreed on; empty until they are
	Values     bool      `json:"values"`     // whether the next round is one of values
	Step       uint32    `json:"step"`       // updates seen published
	Checkpoint string    `json:"checkpoint"` // of the key service's log, signed
}

// Position says how far the client came. Between contributing and collecting
// it is that of before the contribution, but for the round it may not be
// contributed to again.
func (x *Client) Position() Position {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := Position{
		Task: task.DigestOf(x.task).String(), Model: x.model.String(), Next: x.next, Step: x.step,
		Ranges: append([]float32{}, x.ranges...), Values: x.kind == task.KindValues,
	}
	if x.seen != nil {
		p.Checkpoint = x.seen.Text
	}
	return p
}

// Resume makes the client go on from a position of its task. What a wrong one
// leads to is refused later, by digest: the next round starts from another
// model then.
func (x *Client) Resume(p Position) error {
	if own := task.DigestOf(x.task).String(); p.Task != own {
		return fmt.Errorf("the position is one of another task than %s, or of one that was created again: %w", x.task.Name, errs.ErrModelMismatch)
	}
	model, err := task.ParseDigest(p.Model)
	if err != nil {
		return err
	}
	if n := len(p.Ranges); n != 0 && n != len(x.task.Layout) {
		return fmt.Errorf("a position with %d ranges for %d tensors: %w", n, len(x.task.Layout), errs.ErrArgument)
	}
	for _, r := range p.Ranges {
		if !(r > 0) || r > math.MaxFloat32 {
			return fmt.Errorf("a position with a range of %g: %w", r, errs.ErrArgument)
		}
	}
	var seen *audit.Checkpoint
	if p.Checkpoint != "" {
		if seen, err = audit.Open(p.Checkpoint, x.kmsName, ed25519.PublicKey(x.task.KMS[:])); err != nil {
			return err
		}
	}
	kind := task.KindRanges
	if p.Values {
		kind = task.KindValues
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.model, x.next, x.kind, x.step, x.seen = model, p.Next, kind, p.Step, seen
	x.ranges, x.open = nil, nil
	if len(p.Ranges) > 0 {
		x.ranges = append([]float32{}, p.Ranges...)
	}
	return nil
}
