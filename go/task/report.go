package task

import (
	"bytes"
	"fmt"
)

// Announcement says that a client will contribute to a round. It reaches the key
// service before the client uploads anything, so that an aggregator that stalls
// uploads cannot choose who counts as willing. The key service signs it as the
// announcement's receipt.
type Announcement struct {
	Spec        Digest
	Client      string
	ModelDigest Digest // that the client holds
}

const tagAnnouncement = "cryptflow/v1/announcement"

// Canonical bytes.
func (a *Announcement) Canonical() []byte {
	w := start(tagAnnouncement)
	w.fixed(a.Spec)
	w.text(a.Client)
	w.fixed(a.ModelDigest)
	return w.b
}

// ParseAnnouncement is the strict inverse of Canonical.
func ParseAnnouncement(b []byte) (*Announcement, error) {
	r := open(b, tagAnnouncement)
	a := &Announcement{r.fixed(), r.text(), r.fixed()}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("announcement: %w", err)
	}
	return a, nil
}

// Opening is what a client, or the majority of a cohort, made of a released sum.
// The zero value is invalid.
type Opening uint8

// Openings.
const (
	Opened    Opening = 1
	NotOpened Opening = 2
)

func (o Opening) String() string {
	switch o {
	case Opened:
		return "OPENED"
	case NotOpened:
		return "NOT_OPENED"
	}
	return fmt.Sprintf("opening(%d)", uint8(o))
}

// check refuses digests where nothing was opened, and their absence where
// something was.
func (o Opening) check(r *reader, result, sums Digest) {
	switch {
	case o != Opened && o != NotOpened:
		r.fail("%v", o)
	case o == NotOpened && sums != Digest{}:
		r.fail("the digest of a sum that did not open")
	case o == Opened && (sums == Digest{} || result == Digest{}):
		r.fail("an opened sum without a digest")
	}
}

// Report is one client's word on a released sum, signed by the key of the
// client's certificate. Result is the digest of the aggregator's result. Sums is
// the digest of the integers that it opened to: results that differ in their
// residual noise alone give the same.
type Report struct {
	Spec    Digest
	Client  string
	Opening Opening
	Result  Digest
	Sums    Digest
}

const tagReport = "cryptflow/v1/report"

// Canonical bytes.
func (x *Report) Canonical() []byte {
	w := start(tagReport)
	w.fixed(x.Spec)
	w.text(x.Client)
	w.u8(uint8(x.Opening))
	w.fixed(x.Result)
	w.fixed(x.Sums)
	return w.b
}

// ParseReport is the strict inverse of Canonical.
func ParseReport(b []byte) (*Report, error) {
	r := open(b, tagReport)
	x := &Report{r.fixed(), r.text(), Opening(r.u8()), r.fixed(), r.fixed()}
	x.Opening.check(r, x.Result, x.Sums)
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return x, nil
}

// Verdict is what the majority of a released cohort reported, signed by the key
// service and recorded in its log. A round whose verdict is NotOpened counts for
// nobody: the next one starts from the same model, and what was contributed to
// it is spent.
type Verdict struct {
	Spec    Digest
	Opening Opening
	Result  Digest // zero when not opened
	Sums    Digest
	Agree   uint32 // clients that reported so
	Cohort  uint32 // clients of the released set
}

const tagVerdict = "cryptflow/v1/verdict"

// Canonical bytes.
func (x *Verdict) Canonical() []byte {
	w := start(tagVerdict)
	w.fixed(x.Spec)
	w.u8(uint8(x.Opening))
	w.fixed(x.Result)
	w.fixed(x.Sums)
	w.u32(x.Agree)
	w.u32(x.Cohort)
	return w.b
}

// ParseVerdict is the strict inverse of Canonical.
func ParseVerdict(b []byte) (*Verdict, error) {
	r := open(b, tagVerdict)
	x := &Verdict{r.fixed(), Opening(r.u8()), r.fixed(), r.fixed(), r.u32(), r.u32()}
	x.Opening.check(r, x.Result, x.Sums)
	if x.Opening == NotOpened && x.Result != (Digest{}) {
		r.fail("the result of a sum that did not open")
	}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("verdict: %w", err)
	}
	return x, nil
}

// hasTag reports whether canonical bytes begin with a tag.
func hasTag(b []byte, tag string) bool { return bytes.HasPrefix(b, start(tag).b) }
