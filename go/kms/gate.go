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
	"maps"
	"slices"
	"strings"

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

// Facts are what the key service itself knows of a round's clients, whatever the
// aggregator says.
type Facts struct {
	Deposits  []task.Deposit // all that were made; a client may have made several
	Announced []string       // clients that announced themselves
	Excluded  []string       // clients that the key service refused by name
}

// willing are the clients that announced themselves or deposited, and were not
// refused: those that a set may leave out a few of only.
func (f *Facts) willing(spec task.Digest) map[string]bool {
	out := map[string]bool{}
	for _, c := range f.Announced {
		out[c] = true
	}
	for _, d := range f.Deposits {
		if d.Spec == spec {
			out[d.Client] = true
		}
	}
	for _, c := range f.Excluded {
		delete(out, c)
	}
	return out
}

// Missing lists the willing clients that a set leaves out, ascending.
func (f *Facts) Missing(m *task.Manifest) []string {
	left := f.willing(m.Spec)
	for _, e := range m.Entries {
		delete(left, e.Client)
	}
	return slices.Sorted(maps.Keys(left))
}

// mayMiss is how many of n willing clients a set may leave out: the task's share
// of them, and one in any case, so that no single client can block every round.
// A task whose fraction is 1 wants everybody.
func mayMiss(t *task.Task, n int) int {
	if t.Permille >= 1000 {
		return 0
	}
	return max(1, n*int(1000-t.Permille)/1000)
}

// Check returns ErrManifest, saying which condition fails, unless the set may
// be opened: its size lies between the floors and n_max; it leaves out at most
// the task's share of the clients that announced themselves; it has at most the
// cap of every organisation; and each of its clients is enrolled, occurs once,
// made the deposit that its entry names, weight included, and started from the
// specification's model.
func (g Gate) Check(t *task.Task, s *task.RoundSpec, facts *Facts, m *task.Manifest) error {
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
	made := make(map[task.Deposit]bool, len(facts.Deposits))
	for _, d := range facts.Deposits {
		if d.Spec == spec {
			made[d] = true
		}
	}
	n := len(m.Entries)
	if least := g.Smallest(t); n < int(least) {
		return refuse("%d clients, at least %d are needed", n, least)
	}
	if n > int(t.MaxClients) {
		return refuse("%d clients, at most %d are allowed", n, t.MaxClients)
	}
	willing, missing := len(facts.willing(spec)), facts.Missing(m)
	if most := mayMiss(t, willing); len(missing) > most {
		return refuse("%d of %d clients that announced themselves are missing (%s), at most %d may be",
			len(missing), willing, some(missing), most)
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
		if slices.Contains(facts.Excluded, e.Client) {
			return refuse("client %q was refused in this round", e.Client)
		}
		if e.ModelDigest != s.ModelDigest {
			return refuse("client %q started from another model", e.Client)
		}
		if e.Weight < 1 || e.Weight > uint32(shape.Scheme.Weight) {
			return refuse("weight %d of client %q, 1 to %d are allowed", e.Weight, e.Client, shape.Scheme.Weight)
		}
		d := task.Deposit{Spec: spec, Client: e.Client, ModelDigest: e.ModelDigest, Root: e.Root, Weight: e.Weight}
		before := d
		before.Weight = 0 // of version 1, which states none
		if !made[d] && (!made[before] || shape.Scheme.Weight != 1) {
			return refuse("client %q made no deposit for this contribution with weight %d", e.Client, e.Weight)
		}
		organisations[member.Organisation]++
		if t.PerOrganisation > 0 && organisations[member.Organisation] > t.PerOrganisation {
			return refuse("more than %d clients of %q", t.PerOrganisation, member.Organisation)
		}
	}
	return nil
}

// some names the first few of many.
func some(names []string) string {
	const few = 8
	if len(names) > few {
		return strings.Join(names[:few], ", ") + fmt.Sprintf(" and %d more", len(names)-few)
	}
	return strings.Join(names, ", ")
}

func refuse(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errs.ErrManifest)...)
}

// Decide is what the key service answers to a manifest, given what it decided
// before (nil: nothing). The same set again gets the same decision; any other,
// and any set after an abort, is ErrDecided for ever.
func (g Gate) Decide(
	before *task.Decision, t *task.Task, s *task.RoundSpec, facts *Facts, m *task.Manifest,
) (*task.Decision, error) {
	digest := task.DigestOf(m)
	if before != nil {
		if before.Outcome == task.Released && before.Manifest == digest {
			return before, nil
		}
		return nil, fmt.Errorf("the round is %v: %w", before.Outcome, errs.ErrDecided)
	}
	if err := g.Check(t, s, facts, m); err != nil {
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
