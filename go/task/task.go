// Package task holds what parties agree on and sign: Task, RoundSpec,
// Manifest, receipts, decisions and results, their canonical bytes and
// digests, the model layout, and the states of a round.
//
// # Security
//
// Parsers are strict: one byte string for each object, nothing allocated on a
// claim that the bytes at hand cannot hold. Parsing checks form; the release
// gate (kms) and the client check meaning.
//
// # Compatibility
//
// Canonical bytes are described in docs/spec.md. They begin with a tag that
// carries the version and never change under that tag.
package task

import (
	"fmt"
	"regexp"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/privacy"
)

// Limits of a task, each with its reason.
const (
	MaxTensors  = 1 << 16 // largest published models have some thousands
	MaxRounds   = 1 << 20
	MaxDeadline = 30 * 24 * 3600 // seconds; keys do not outlive a month
	MaxCap      = 1 << 24        // num_examples; a 48-bit sum holds 4096 of them
	MaxMetrics  = 64             // each costs two of a control chunk's entries
)

// Member is an enrolled client: the name in its certificate and the
// organisation that runs it.
type Member struct{ Name, Organisation string }

// Task is what an admin signs. Everything a round may do follows from it.
type Task struct {
	Name            string
	Nonce           [32]byte // makes two tasks of one name different
	Mode            params.Mode
	Preset          string
	Bits            uint32
	Rounding        params.Rounding
	Encoding        params.Encoding
	Ranges          Ranges
	Layout          Layout
	InitialModel    Digest
	WeightCap       uint32   // largest num_examples of one client
	Metrics         []string // scalars that clients may report, ascending
	Members         []Member
	MaxClients      uint32 // n_max
	MinCohort       uint32
	Permille        uint32 // least fraction of the willing clients in a cohort, in 1/1000
	PerOrganisation uint32 // most members of one organisation in a cohort; 0: no cap
	Deadline        uint32 // seconds from a round's first commit
	Rounds          uint32 // rounds to publish
	Aggregator      Key
	KMS             Key
	// Privacy is what clients clip and add before they encrypt; nil without.
	Privacy *privacy.Promise
	// Trim is how many of the largest claims of a negotiated range are ignored.
	Trim uint32
	// Canaries is the number of coefficients of each contribution that the key
	// service checks before it opens the sum; 0 for none.
	Canaries uint32
}

// A task with privacy has a tag of its own, and so has one with extensions: who
// does not know it refuses the task and does not take part without noise.
const (
	tagTask     = "cryptflow/v1/task"
	tagPrivate  = "cryptflow/v1/private-task"
	tagExtended = "cryptflow/v2/task"
)

// Canonical bytes.
func (t *Task) Canonical() []byte {
	extended := t.extended()
	w := start(tagTask)
	switch {
	case extended:
		w = start(tagExtended)
	case t.Privacy != nil:
		w = start(tagPrivate)
	}
	w.text(t.Name)
	w.fixed(t.Nonce)
	w.u8(uint8(t.Mode))
	w.text(t.Preset)
	w.u32(t.Bits)
	w.u8(uint8(t.Rounding))
	w.u8(uint8(t.Encoding))
	w.u8(uint8(t.Ranges))
	w.u32(uint32(len(t.Layout)))
	for _, x := range t.Layout {
		w.text(x.Name)
		w.u32(uint32(len(x.Shape)))
		for _, d := range x.Shape {
			w.u64(d)
		}
		w.f32(x.Range)
	}
	w.fixed(t.InitialModel)
	w.u32(t.WeightCap)
	w.u32(uint32(len(t.Metrics)))
	for _, m := range t.Metrics {
		w.text(m)
	}
	w.u32(uint32(len(t.Members)))
	for _, m := range t.Members {
		w.text(m.Name)
		w.text(m.Organisation)
	}
	for _, v := range []uint32{t.MaxClients, t.MinCohort, t.Permille, t.PerOrganisation, t.Deadline, t.Rounds} {
		w.u32(v)
	}
	w.fixed(t.Aggregator)
	w.fixed(t.KMS)
	if extended {
		t.writeExtensions(w)
	} else {
		t.writePrivacy(w)
	}
	return w.b
}

// ParseTask is the strict inverse of Canonical, followed by Check.
func ParseTask(b []byte) (*Task, error) {
	tag := tagTask
	for _, other := range []string{tagPrivate, tagExtended} {
		if hasTag(b, other) {
			tag = other
		}
	}
	r := open(b, tag)
	t := &Task{Name: r.text(), Nonce: r.fixed(), Mode: params.Mode(r.u8()), Preset: r.text(), Bits: r.u32(), Rounding: params.Rounding(r.u8()), Encoding: params.Encoding(r.u8()), Ranges: Ranges(r.u8())}
	n := r.count(12)
	for range n {
		x := Tensor{Name: r.text()}
		for range r.count(8) {
			x.Shape = append(x.Shape, r.u64())
		}
		x.Range = r.f32()
		t.Layout = append(t.Layout, x)
	}
	t.InitialModel, t.WeightCap = r.fixed(), r.u32()
	for range r.count(4) {
		t.Metrics = append(t.Metrics, r.text())
	}
	n = r.count(8)
	for range n {
		t.Members = append(t.Members, Member{r.text(), r.text()})
	}
	for _, p := range []*uint32{&t.MaxClients, &t.MinCohort, &t.Permille, &t.PerOrganisation, &t.Deadline, &t.Rounds} {
		*p = r.u32()
	}
	t.Aggregator, t.KMS = r.fixed(), r.fixed()
	switch tag {
	case tagPrivate:
		t.readPrivacy(r)
	case tagExtended:
		t.readExtensions(r)
	}
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("task: %w", err)
	}
	return t, t.Check()
}

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)

// ValidName reports whether s can name a task, client or organisation: it is
// safe as a path segment and in a SPIFFE id.
func ValidName(s string) bool { return namePattern.MatchString(s) }

// maxMetric is the longest name of a metric: those that frameworks make up
// of a folder, a class and a data set stay below it.
const maxMetric = 128

// ValidMetric reports whether s can name a metric: any printable ASCII but
// spaces, such as val/loss or AUROC, safe in logs and on terminals.
func ValidMetric(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= maxMetric
}

// Check refuses a task that no round could satisfy.
func (t *Task) Check() error {
	if !ValidName(t.Name) {
		return fmt.Errorf("task name %q: use a-z, 0-9, dot, dash, underscore: %w", t.Name, errs.ErrArgument)
	}
	if err := t.Layout.check(); err != nil {
		return err
	}
	if err := t.checkCanaries(); err != nil {
		return err
	}
	for _, k := range []Kind{KindValues, t.Ranges.First()} {
		s, err := t.Shape(k)
		if err != nil {
			return err
		}
		if _, err := s.Geometry(Digest{}); err != nil {
			return err
		}
	}
	for i, m := range t.Metrics {
		if !ValidMetric(m) || i > 0 && t.Metrics[i-1] >= m {
			return fmt.Errorf("metric %q: names have 1 to %d characters of printable ASCII, no space among them, each once and in order: %w",
				m, maxMetric, errs.ErrArgument)
		}
	}
	seen := map[string]bool{}
	for _, m := range t.Members {
		if !ValidName(m.Name) || !ValidName(m.Organisation) || seen[m.Name] {
			return fmt.Errorf("member %q of %q is misnamed or occurs twice: %w", m.Name, m.Organisation, errs.ErrArgument)
		}
		seen[m.Name] = true
	}
	for _, c := range []struct {
		ok   bool
		text string
	}{
		{t.WeightCap >= 1 && t.WeightCap <= MaxCap, fmt.Sprintf("weight_cap reaches from 1 to %d", MaxCap)},
		{t.Encoding.Values(), "the encoding is lanes, slots or slots-ci"},
		{rangesNames[t.Ranges] != "", "ranges are fixed, adaptive or negotiated"},
		{len(t.Metrics) <= MaxMetrics, fmt.Sprintf("a task has at most %d metrics", MaxMetrics)},
		{t.MinCohort >= 2, "a cohort has at least 2 clients"},
		{t.MinCohort <= t.MaxClients, fmt.Sprintf("a cohort has at least %d clients (min_cohort, by itself the key service's floor) and at most %d (max_clients, by itself all members): enrol more members", t.MinCohort, t.MaxClients)},
		{int(t.MinCohort) <= len(t.Members), "fewer members than min_cohort"},
		{t.Permille <= 1000, "the fraction of willing clients is at most 1000 permille"},
		{t.Deadline >= 1 && t.Deadline <= MaxDeadline, fmt.Sprintf("the deadline is 1 to %d seconds", MaxDeadline)},
		{t.Rounds >= 1 && t.Rounds <= MaxRounds, fmt.Sprintf("a task has 1 to %d rounds", MaxRounds)},
	} {
		if !c.ok {
			return fmt.Errorf("task %s: %s: %w", t.Name, c.text, errs.ErrArgument)
		}
	}
	if err := t.checkExtensions(); err != nil {
		return err
	}
	return t.checkPrivacy()
}

// checkPrivacy refuses a task that promises privacy and releases what noise
// does not cover, or less noise than it promises.
func (t *Task) checkPrivacy() error {
	p := t.Privacy
	if p == nil {
		return nil
	}
	for _, c := range []struct {
		ok   bool
		text string
	}{
		{t.Mode == params.SumKey, "the mode is sum-key: the key of shared-key opens single contributions, which hold a part of the noise only"},
		{t.Encoding == params.Lanes, "the encoding is lanes: noise is made of integers"},
		{t.Rounding == params.NearestEven, "the rounding is nearest: what is sent was rounded before noise was added"},
		{t.Ranges == RangesFixed, "ranges are fixed: rounds that agree on ranges release them without noise"},
		{t.WeightCap == 1, "weight_cap is 1: every client counts the same, since weights are released without noise"},
		{len(t.Metrics) == 0, "there are no metrics: they are released without noise"},
	} {
		if !c.ok {
			return fmt.Errorf("task %s: with privacy %s: %w", t.Name, c.text, errs.ErrArgument)
		}
	}
	for _, x := range t.Layout {
		if err := p.Check(t.Bits, t.MinCohort, x.Range); err != nil {
			return fmt.Errorf("task %s: tensor %q: %w", t.Name, x.Name, err)
		}
	}
	return nil
}

// PublicWeightCap is the largest public integer weight: 1 in sum-key, where
// weights are applied by the client.
func (t *Task) PublicWeightCap() uint32 {
	if t.Mode == params.SumKey {
		return 1
	}
	return min(t.WeightCap, params.MaxWeight)
}

// Scheme derives the parameters of the task's updates.
func (t *Task) Scheme() (*params.Scheme, error) {
	s, err := t.Shape(KindValues)
	return s.Scheme, err
}

// Member returns the enrolled client called name.
func (t *Task) Member(name string) (Member, bool) {
	for _, m := range t.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}
