package task

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// maxSecret bounds the coefficients of a released secret: the largest ring.
const maxSecret = 1 << 15

// Release is what opens one sum: the decision and the key of exactly its set.
// Its canonical bytes travel sealed to one client; it never prints its key.
type Release struct {
	Spec     Digest
	Manifest Digest
	Mode     params.Mode
	Terms    uint32
	Weights  uint32
	Squares  uint64
	Secret   []int32
}

const tagRelease = "cryptflow/v1/release"

// Canonical bytes.
func (x *Release) Canonical() []byte {
	w := start(tagRelease)
	w.fixed(x.Spec)
	w.fixed(x.Manifest)
	w.u8(uint8(x.Mode))
	w.u32(x.Terms)
	w.u32(x.Weights)
	w.u64(x.Squares)
	w.u32(uint32(len(x.Secret)))
	for _, v := range x.Secret {
		w.u32(uint32(v))
	}
	return w.b
}

// ParseRelease is the strict inverse of Canonical.
func ParseRelease(b []byte) (*Release, error) {
	r := open(b, tagRelease)
	x := &Release{Spec: r.fixed(), Manifest: r.fixed(), Mode: params.Mode(r.u8()), Terms: r.u32(), Weights: r.u32(), Squares: r.u64()}
	n := r.count(4)
	if n > maxSecret {
		r.fail("a secret of %d coefficients", n)
		n = 0
	}
	x.Secret = make([]int32, n)
	for i := range x.Secret {
		x.Secret[i] = int32(r.u32())
	}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	return x, nil
}

// Matches returns ErrDecided unless the release is that of the decision.
func (x *Release) Matches(d *Decision) error {
	if d.Outcome != Released || x.Spec != d.Spec || x.Manifest != d.Manifest || x.Terms != d.Terms || x.Weights != d.Weights || x.Squares != d.Squares {
		return fmt.Errorf("the release is not that of the decision: %w", errs.ErrDecided)
	}
	return nil
}

// Format does not reveal the key, whatever the verb.
func (x *Release) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "release(%s, %d clients, key redacted)", x.Spec.Short(), x.Terms)
}

// Addressee is the associated data of a sealed release.
type Addressee struct {
	Spec     Digest
	Manifest Digest
	Client   string
}

const tagAddressee = "cryptflow/v1/addressee"

// Canonical bytes.
func (a *Addressee) Canonical() []byte {
	w := start(tagAddressee)
	w.fixed(a.Spec)
	w.fixed(a.Manifest)
	w.text(a.Client)
	return w.b
}
