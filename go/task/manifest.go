package task

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// Entry is one client's place in a manifest.
type Entry struct {
	Client      string
	Root        Digest // of the contribution's frames
	ModelDigest Digest // that the client started from
	Weight      uint32 // public integer weight; 1 in sum-key
}

// Manifest is the set that the aggregator sealed and asks the key service to
// open, signed by the aggregator.
type Manifest struct {
	Spec    Digest
	Entries []Entry // by client, ascending, none twice
}

const tagManifest = "cryptflow/v1/manifest"

// Canonical bytes.
func (m *Manifest) Canonical() []byte {
	w := start(tagManifest)
	w.fixed(m.Spec)
	w.u32(uint32(len(m.Entries)))
	for _, e := range m.Entries {
		w.text(e.Client)
		w.fixed(e.Root)
		w.fixed(e.ModelDigest)
		w.u32(e.Weight)
	}
	return w.b
}

// ParseManifest is the strict inverse of Canonical. Entries out of order or a
// client twice are ErrManifest: the gate refuses them and logs it.
func ParseManifest(b []byte) (*Manifest, error) {
	r := open(b, tagManifest)
	m := &Manifest{Spec: r.fixed()}
	for range r.count(4 + 32 + 32 + 4) {
		m.Entries = append(m.Entries, Entry{r.text(), r.fixed(), r.fixed(), r.u32()})
	}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	for i := 1; i < len(m.Entries); i++ {
		if a, b := m.Entries[i-1].Client, m.Entries[i].Client; a >= b {
			return nil, fmt.Errorf("client %q after %q: ascending and none twice: %w", b, a, errs.ErrManifest)
		}
	}
	return m, nil
}

// Sums are what decryption needs of a manifest's weights.
func (m *Manifest) Sums() (terms, weights uint32, squares uint64) {
	for _, e := range m.Entries {
		terms++
		weights += e.Weight
		squares += uint64(e.Weight) * uint64(e.Weight)
	}
	return terms, weights, squares
}

// Receipt acknowledges a committed contribution, signed by the aggregator.
type Receipt struct {
	Spec   Digest
	Client string
	Root   Digest
	Frames uint32
	Bytes  uint64
	Weight uint32
}

const tagReceipt = "cryptflow/v1/receipt"

// Canonical bytes.
func (x *Receipt) Canonical() []byte {
	w := start(tagReceipt)
	w.fixed(x.Spec)
	w.text(x.Client)
	w.fixed(x.Root)
	w.u32(x.Frames)
	w.u64(x.Bytes)
	w.u32(x.Weight)
	return w.b
}

// ParseReceipt is the strict inverse of Canonical.
func ParseReceipt(b []byte) (*Receipt, error) {
	r := open(b, tagReceipt)
	x := &Receipt{r.fixed(), r.text(), r.fixed(), r.u32(), r.u64(), r.u32()}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return x, nil
}

// Deposit names a contribution whose key was deposited. Its canonical bytes
// are the associated data of the sealed key, and what the key service signs as
// the deposit's receipt.
//
// Weight is the public integer weight that the client wants its contribution to
// have, 1 in sum-key. The key service compares it with the manifest, so that no
// aggregator chooses weights. It is 0 in a deposit of version 1, which states
// none and is accepted where all weights are 1.
type Deposit struct {
	Spec        Digest
	Client      string
	ModelDigest Digest
	Root        Digest
	Weight      uint32
}

const (
	tagDepositV1 = "cryptflow/v1/deposit"
	tagDeposit   = "cryptflow/v2/deposit"
)

// Canonical bytes.
func (d *Deposit) Canonical() []byte {
	w := start(tagDeposit)
	if d.Weight == 0 {
		w = start(tagDepositV1)
	}
	w.fixed(d.Spec)
	w.text(d.Client)
	w.fixed(d.ModelDigest)
	w.fixed(d.Root)
	if d.Weight != 0 {
		w.u32(d.Weight)
	}
	return w.b
}

// ParseDeposit is the strict inverse of Canonical.
func ParseDeposit(b []byte) (*Deposit, error) {
	if hasTag(b, tagDepositV1) {
		r := open(b, tagDepositV1)
		d := &Deposit{Spec: r.fixed(), Client: r.text(), ModelDigest: r.fixed(), Root: r.fixed()}
		if err := r.close(); err != nil {
			return nil, fmt.Errorf("deposit: %w", err)
		}
		return d, nil
	}
	r := open(b, tagDeposit)
	d := &Deposit{Spec: r.fixed(), Client: r.text(), ModelDigest: r.fixed(), Root: r.fixed(), Weight: r.u32()}
	if d.Weight == 0 {
		r.fail("a deposit without a weight")
	}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("deposit: %w", err)
	}
	return d, nil
}

// Outcome is how a round ended at the key service. The zero value is invalid.
type Outcome uint8

// Outcomes. Both are final and exclude each other.
const (
	Released Outcome = 1
	Aborted  Outcome = 2
)

func (o Outcome) String() string {
	switch o {
	case Released:
		return "RELEASED"
	case Aborted:
		return "ABORTED"
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// Decision is the key service's word on a round, signed by it. Of a released
// round it says what the sum consists of; of an aborted one, why.
type Decision struct {
	Spec     Digest
	Outcome  Outcome
	Manifest Digest // zero when aborted
	Terms    uint32
	Weights  uint32
	Squares  uint64
	Reason   string
}

const tagDecision = "cryptflow/v1/decision"

// Canonical bytes.
func (d *Decision) Canonical() []byte {
	w := start(tagDecision)
	w.fixed(d.Spec)
	w.u8(uint8(d.Outcome))
	w.fixed(d.Manifest)
	w.u32(d.Terms)
	w.u32(d.Weights)
	w.u64(d.Squares)
	w.text(d.Reason)
	return w.b
}

// ParseDecision is the strict inverse of Canonical.
func ParseDecision(b []byte) (*Decision, error) {
	r := open(b, tagDecision)
	d := &Decision{r.fixed(), Outcome(r.u8()), r.fixed(), r.u32(), r.u32(), r.u64(), r.text()}
	switch {
	case d.Outcome != Released && d.Outcome != Aborted:
		r.fail("%v", d.Outcome)
	case d.Outcome == Aborted && (d.Manifest != Digest{} || d.Terms != 0 || d.Weights != 0 || d.Squares != 0):
		r.fail("an aborted round with a sum")
	case d.Outcome == Released && (d.Terms == 0 || d.Terms > params.MaxClients):
		r.fail("a sum of %d terms", d.Terms)
	}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("decision: %w", err)
	}
	return d, nil
}

// Result is a published sum, signed by the aggregator.
type Result struct {
	Spec     Digest
	Manifest Digest
	Root     Digest // of the result's frames
	Frames   uint32
	Terms    uint32
}

const tagResult = "cryptflow/v1/result"

// Canonical bytes.
func (x *Result) Canonical() []byte {
	w := start(tagResult)
	w.fixed(x.Spec)
	w.fixed(x.Manifest)
	w.fixed(x.Root)
	w.u32(x.Frames)
	w.u32(x.Terms)
	return w.b
}

// ParseResult is the strict inverse of Canonical.
func ParseResult(b []byte) (*Result, error) {
	r := open(b, tagResult)
	x := &Result{r.fixed(), r.fixed(), r.fixed(), r.u32(), r.u32()}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	return x, nil
}
