package task

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
)

// maxHPKE bounds an HPKE public key: X-Wing's has 1216 bytes.
const maxHPKE = 1 << 12

// RoundSpec is one round of a task, signed by the key service. Its digest is
// the round's identity: public polynomials, secrets and noise are derived from
// it. Everything else about the round stands in the task that it names.
type RoundSpec struct {
	Task            Digest // of the signed task
	Round           uint32 // from 0
	Kind            Kind   // what it sums
	Step            uint32 // updates published before it
	ModelDigest     Digest // of the model that updates start from
	LayoutDigest    Digest
	Lanes, LogDelta uint32   // derived from the task; stated to be compared
	Nonce           [32]byte // of the key service; no digest can be foreseen
	HPKE            []byte   // fresh public key for key deposits
	PublicKey       Digest   // of the CKKS public key's frame; zero in sum-key
	// Failed is how many updates were released before whose sum did not open for
	// their cohort. They are spent: privacy accounts for them too.
	Failed uint32
}

// A specification of version 1 states no failed updates, because there are none.
const (
	tagSpec       = "cryptflow/v1/spec"
	tagSpecFailed = "cryptflow/v2/spec"
)

// Spent is how many updates were released before the round.
func (s *RoundSpec) Spent() uint32 { return s.Step + s.Failed }

// Canonical bytes.
func (s *RoundSpec) Canonical() []byte {
	w := start(tagSpec)
	if s.Failed != 0 {
		w = start(tagSpecFailed)
	}
	w.fixed(s.Task)
	w.u32(s.Round)
	w.u8(uint8(s.Kind))
	w.u32(s.Step)
	w.fixed(s.ModelDigest)
	w.fixed(s.LayoutDigest)
	w.u32(s.Lanes)
	w.u32(s.LogDelta)
	w.fixed(s.Nonce)
	w.text(string(s.HPKE))
	w.fixed(s.PublicKey)
	if s.Failed != 0 {
		w.u32(s.Failed)
	}
	return w.b
}

// ParseRoundSpec is the strict inverse of Canonical.
func ParseRoundSpec(b []byte) (*RoundSpec, error) {
	tag, failed := tagSpec, hasTag(b, tagSpecFailed)
	if failed {
		tag = tagSpecFailed
	}
	r := open(b, tag)
	s := &RoundSpec{
		Task: r.fixed(), Round: r.u32(), Kind: Kind(r.u8()), Step: r.u32(), ModelDigest: r.fixed(), LayoutDigest: r.fixed(),
		Lanes: r.u32(), LogDelta: r.u32(), Nonce: r.fixed(), HPKE: append([]byte(nil), r.limited(maxHPKE)...), PublicKey: r.fixed(),
	}
	if failed {
		if s.Failed = r.u32(); s.Failed == 0 {
			r.fail("no failed updates under the tag of some")
		}
	}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("specification: %w", err)
	}
	return s, nil
}

// Follows returns ErrSpec unless the specification is derivable from the task:
// nobody but the admin widens what a round may do.
func (s *RoundSpec) Follows(t *Task) error {
	shape, err := t.Shape(s.Kind)
	if err != nil {
		return err
	}
	scheme := shape.Scheme
	for _, c := range []struct {
		ok   bool
		what string
	}{
		{s.Task == DigestOf(t), "names another task"},
		{s.LayoutDigest == DigestOf(shape.Layout), "has another layout"},
		{s.Lanes == uint32(scheme.Lanes) && s.LogDelta == uint32(scheme.LogDelta), "has other parameters"},
		{len(s.HPKE) > 0, "has no deposit key"},
		{(s.PublicKey == Digest{}) == (scheme.Components == 1), "has a public key where its mode has none, or none where it has one"},
		{uint64(s.Step)+uint64(s.Failed) <= uint64(s.Round), "counts more updates than rounds"},
		{s.Step <= s.Round && s.Step < t.Rounds, "comes after the task's last update"},
		{s.Round > 0 || s.Kind == t.Ranges.First(), "does not begin as the task does"},
		{s.Round > 0 || s.ModelDigest == t.InitialModel, "does not start from the task's first model"},
	} {
		if !c.ok {
			return fmt.Errorf("the specification of round %d %s: %w", s.Round, c.what, errs.ErrSpec)
		}
	}
	return nil
}
