package kms

import (
	"github.com/cryptflow/cryptflow/go/canary"
	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// canaries are those of a manifest's contributions, each proven to be what its
// client deposited.
type canaries struct {
	geometry frame.Geometry
	residues [][][]uint64 // by entry of the manifest; nil in a task without canaries
}

// provenCanaries checks that the aggregator sent the canaries of every
// contribution, and that they lead to the deposited roots. The gate has found
// the root of each entry among the deposits.
//
// What does not lead to the root is the aggregator's fault: it refuses the set
// and excludes nobody. So a refusal by canary, which takes a client out of
// those that count as missing, follows from what the client itself deposited.
// An aggregator cannot bring it about for an honest client, and so cannot
// shrink the willing set with it.
func provenCanaries(t *task.Task, s *task.RoundSpec, m *task.Manifest, in []*pb.Canary) (*canaries, error) {
	switch {
	case t.Canaries == 0 && len(in) == 0:
		return &canaries{}, nil
	case t.Canaries == 0:
		return nil, refuse("it has canaries, and task %s has none", t.Name)
	case len(in) == 0:
		return nil, refuse("the aggregator sent no canaries, which task %s has: the aggregator is older than this task, update it", t.Name)
	case len(in) != len(m.Entries):
		return nil, refuse("canaries of %d contributions for %d entries", len(in), len(m.Entries))
	}
	shape, err := t.Shape(s.Kind)
	if err != nil {
		return nil, err
	}
	out := &canaries{residues: make([][][]uint64, len(in))}
	if out.geometry, err = shape.Geometry(m.Spec); err != nil {
		return nil, err
	}
	for i, e := range m.Entries {
		if out.residues[i], err = canary.Open(out.geometry, e.Root, in[i].GetResidues(), in[i].GetPath()); err != nil {
			return nil, refuse("the canaries that the aggregator sent for %q: %v", e.Client, err)
		}
	}
	return out, nil
}

// check returns ErrDeposit unless entry k of the manifest is under its deposited
// key.
func (c *canaries) check(k int, m *task.Manifest, seed ckks.Seed) error {
	if c.residues == nil {
		return nil
	}
	g := c.geometry
	return ckks.CheckCanaries(g.Scheme.Preset, m.Spec, uint32(g.ControlIndex()), seed, g.CanaryFrom(), c.residues[k])
}
