// Package kms decides when a round's keys are released. What stands here is
// the release gate: a pure function of the signed task, the specification, the
// deposits and the manifest.
//
// # Security
//
// The gate denies by default: a manifest passes when every condition of
// docs/release-gate.md holds and in no other case. It bounds what an
// aggregator that proposes the set can learn; it does not protect against
// min_cohort−1 enrolled clients that collude with the aggregator
// (THREAT_MODEL.md).
package kms

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/task"
)

// HardFloor is the smallest cohort that any configuration allows. Two clients
// learn each other's update from the sum: configurations below three deserve a
// warning.
const HardFloor = 2

// Gate is the key service's own part of the rules.
type Gate struct {
	Floor uint32 // smallest cohort of any task; HardFloor when smaller
}

// DefaultFloor is the floor of a key service that was not configured.
const DefaultFloor = 3

// Smallest is the smallest cohort the gate releases for a task.
func (g Gate) Smallest(t *task.Task) uint32 {
	return max(g.Floor, t.MinCohort, HardFloor)
}

// Feasible refuses a task for which the gate could never open.
func (g Gate) Feasible(t *task.Task) error {
	if err := t.Check(); err != nil {
		return err
	}
	if least := g.Smallest(t); int(least) > len(t.Members) || least > t.MaxClients {
		return fmt.Errorf("this key service releases sums of %d clients or more; task %s enrols %d and allows %d: %w", least, t.Name, len(t.Members), t.MaxClients, errs.ErrArgument)
	}
	return nil
}

// Check returns ErrManifest, saying which condition fails, unless the set may
// be opened: its size lies between the floors and n_max, it holds at least the
// task's fraction of the clients that deposited and at most the cap of every
// organisation, each of its clients is enrolled, occurs once and made the
// deposit that its entry names, and all started from the specification's
// model. deposits are all that were made in the round; a client may have made
// several.
func (g Gate) Check(t *task.Task, s *task.RoundSpec, deposits []task.Deposit, m *task.Manifest) error {
	if err := s.Follows(t); err != nil {
		return err
	}
	shape, err := t.Shape(s.Kind)
	if err != nil {
		return err
	}
	spec := task.DigestOf(s)
	if m.Spec != spec {
		return refuse("it is of another specification")
	}
	made := make(map[task.Deposit]bool, len(deposits))
	depositors := map[string]bool{}
	for _, d := range deposits {
		if d.Spec != spec {
			continue
		}
		made[d] = true
		depositors[d.Client] = true
	}
	n := len(m.Entries)
	if least := g.Smallest(t); n < int(least) {
		return refuse("%d clients, at least %d are needed", n, least)
	}
	if n > int(t.MaxClients) {
		return refuse("%d clients, at most %d are allowed", n, t.MaxClients)
	}
	if n*1000 < int(t.Permille)*len(depositors) {
		return refuse("%d of %d clients that deposited, at least %d in 1000 are needed", n, len(depositors), t.Permille)
	}
	organisations := map[string]uint32{}
	for i, e := range m.Entries {
		if i > 0 && m.Entries[i-1].Client >= e.Client {
			return refuse("clients are ascending and none occurs twice")
		}
		member, ok := t.Member(e.Client)
		if !ok {
			return refuse("client %q is not enrolled", e.Client)
		}
		if e.ModelDigest != s.ModelDigest {
			return refuse("client %q started from another model", e.Client)
		}
		if !made[task.Deposit{Spec: spec, Client: e.Client, ModelDigest: e.ModelDigest, Root: e.Root}] {
			return refuse("client %q made no deposit for this contribution", e.Client)
		}
		if e.Weight < 1 || e.Weight > uint32(shape.Scheme.Weight) {
			return refuse("weight %d of client %q, 1 to %d are allowed", e.Weight, e.Client, shape.Scheme.Weight)
		}
		organisations[member.Organisation]++
		if t.PerOrganisation > 0 && organisations[member.Organisation] > t.PerOrganisation {
			return refuse("more than %d clients of %q", t.PerOrganisation, member.Organisation)
		}
	}
	return nil
}

func refuse(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errs.ErrManifest)...)
}

// Decide is what the key service answers to a manifest, given what it decided
// before (nil: nothing). The same set again gets the same decision; any other,
// and any set after an abort, is ErrDecided for ever.
func (g Gate) Decide(before *task.Decision, t *task.Task, s *task.RoundSpec, deposits []task.Deposit, m *task.Manifest) (*task.Decision, error) {
	digest := task.DigestOf(m)
	if before != nil {
		if before.Outcome == task.Released && before.Manifest == digest {
			return before, nil
		}
		return nil, fmt.Errorf("the round is %v: %w", before.Outcome, errs.ErrDecided)
	}
	if err := g.Check(t, s, deposits, m); err != nil {
		return nil, err
	}
	d := &task.Decision{Spec: m.Spec, Outcome: task.Released, Manifest: digest}
	d.Terms, d.Weights, d.Squares = m.Sums()
	return d, nil
}

// Abort is what the key service answers to the wish to give a round up. An
// aborted round stays aborted, for the first reason; a released one cannot be
// aborted.
func (g Gate) Abort(before *task.Decision, spec task.Digest, reason string) (*task.Decision, error) {
	switch {
	case before == nil:
		return &task.Decision{Spec: spec, Outcome: task.Aborted, Reason: reason}, nil
	case before.Outcome == task.Aborted:
		return before, nil
	}
	return nil, fmt.Errorf("the round is %v: %w", before.Outcome, errs.ErrDecided)
}
