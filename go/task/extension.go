package task

import (
	"bytes"
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/privacy"
)

// An extension is a part of a task that most tasks do not have. A task with
// extensions is written under [tagExtended]: the fields of a plain task, then
// the list of its extensions, ascending by id. All are critical: who does not
// know one refuses the task, since it would take part in other rounds than the
// admin signed.
type extension struct {
	id   uint32
	name string
	// encode is empty when the task does without it.
	encode func(*Task, *writer)
	// decode reads what encode wrote. Content that a task would write in
	// another way, or not at all, is refused afterwards.
	decode func(*Task, *reader)
}

// extensionPrivacy occurs only beside others: alone, privacy has a tag of its
// own.
const extensionPrivacy = 1

// extensions are all there are, ascending by id.
var extensions = []extension{
	{extensionPrivacy, "privacy", (*Task).writePrivacy, (*Task).readPrivacy},
	{2, "tensors", (*Task).writeTensors, (*Task).readTensors},
	{3, "trim", func(t *Task, w *writer) { w.optional(t.Trim) }, func(t *Task, r *reader) { t.Trim = r.u32() }},
	{4, "canaries", func(t *Task, w *writer) { w.optional(t.Canaries) }, func(t *Task, r *reader) { t.Canaries = r.u32() }},
}

// optional writes a number unless it is 0, its default.
func (w *writer) optional(v uint32) {
	if v != 0 {
		w.u32(v)
	}
}

// content is what the task writes under an extension.
func (e *extension) content(t *Task) []byte {
	var w writer
	e.encode(t, &w)
	return w.b
}

// extended says whether the task has extensions that only [tagExtended] can
// carry.
func (t *Task) extended() bool {
	for i := range extensions {
		if e := &extensions[i]; e.id != extensionPrivacy && len(e.content(t)) > 0 {
			return true
		}
	}
	return false
}

// writeExtensions appends those that the task has.
func (t *Task) writeExtensions(w *writer) {
	var list writer
	count := uint32(0)
	for i := range extensions {
		if content := extensions[i].content(t); len(content) > 0 {
			list.u32(extensions[i].id)
			list.u32(uint32(len(content)))
			list.b = append(list.b, content...)
			count++
		}
	}
	w.u32(count)
	w.b = append(w.b, list.b...)
}

// readExtensions is the strict inverse of writeExtensions.
func (t *Task) readExtensions(r *reader) {
	last := uint32(0)
	for range r.count(9) {
		id := r.u32()
		content := r.limited(len(r.b))
		if r.err != nil {
			return
		}
		if id <= last {
			r.fail("extension %d after %d: they ascend and occur once", id, last)
			return
		}
		last = id
		e := extensionOf(id)
		if e == nil {
			r.fail("the task has extension %d, which this version does not know: a newer version of cryptflow is needed", id)
			return
		}
		part := &reader{b: content}
		e.decode(t, part)
		if err := part.close(); err != nil {
			r.err = fmt.Errorf("extension %s: %w", e.name, err)
			return
		}
		if !bytes.Equal(e.content(t), content) {
			r.fail("extension %s is not in its canonical form", e.name)
			return
		}
	}
	if r.err == nil && !t.extended() {
		r.fail("a task without extensions has another tag")
	}
}

func extensionOf(id uint32) *extension {
	for i := range extensions {
		if extensions[i].id == id {
			return &extensions[i]
		}
	}
	return nil
}

func (t *Task) writePrivacy(w *writer) {
	p := t.Privacy
	if p == nil {
		return
	}
	for _, v := range []float64{p.Clip, p.Multiplier, p.Delta} {
		w.f64(v)
	}
	w.u32(p.Colluding)
	w.u32(p.Steps)
	w.u64(p.Bound)
	w.u64(p.Variance)
}

func (t *Task) readPrivacy(r *reader) {
	t.Privacy = &privacy.Promise{
		Clip: r.f64(), Multiplier: r.f64(), Delta: r.f64(), Colluding: r.u32(), Steps: r.u32(), Bound: r.u64(), Variance: r.u64(),
	}
}

// Flags of a tensor, as extension 2 writes them: one byte for each tensor of
// the layout, in its order, if any has one.
const (
	flagPrecise     = 1 << 0
	flagNonNegative = 1 << 1
)

func (t *Task) writeTensors(w *writer) {
	flags, all := make([]byte, len(t.Layout)), byte(0)
	for i, x := range t.Layout {
		if x.Precise {
			flags[i] |= flagPrecise
		}
		if x.NonNegative {
			flags[i] |= flagNonNegative
		}
		all |= flags[i]
	}
	if all != 0 {
		w.b = append(w.b, flags...)
	}
}

func (t *Task) readTensors(r *reader) {
	flags := r.take(len(t.Layout))
	for i, f := range flags {
		t.Layout[i].Precise, t.Layout[i].NonNegative = f&flagPrecise != 0, f&flagNonNegative != 0
	}
}

// checkCanaries refuses canaries that would show nothing, or too much.
func (t *Task) checkCanaries() error {
	switch {
	case t.Canaries > params.MaxCanaries:
		return fmt.Errorf("task %s: %d canaries; a task has at most %d: %w", t.Name, t.Canaries, params.MaxCanaries, errs.ErrArgument)
	case t.Canaries > 0 && t.Mode != params.SumKey:
		return fmt.Errorf("task %s: canaries show whose key a contribution is under, and in %v all have the round's: "+
			"leave them out: %w", t.Name, t.Mode, errs.ErrArgument)
	}
	return nil
}

// checkExtensions refuses what no round could satisfy.
func (t *Task) checkExtensions() error {
	switch {
	case t.Trim > 0 && t.Ranges == RangesFixed:
		return fmt.Errorf("task %s: trim ignores the largest claims of ranges that a cohort agrees on, and these are fixed: %w",
			t.Name, errs.ErrArgument)
	case t.Trim > 0 && t.Trim >= t.MinCohort:
		return fmt.Errorf("task %s: trim ignores the %d largest claims of a range, of a cohort of at least %d; "+
			"it is less than that: %w", t.Name, t.Trim, t.MinCohort, errs.ErrArgument)
	}
	for _, x := range t.Layout {
		switch {
		case !x.Precise:
		case t.Encoding != params.Lanes:
			return fmt.Errorf("task %s: tensor %q is precise, which needs lanes: its digits are integers: %w",
				t.Name, x.Name, errs.ErrArgument)
		case t.Privacy != nil:
			return fmt.Errorf("task %s: tensor %q is precise, which a task with privacy cannot be: "+
				"noise covers one digit only: %w", t.Name, x.Name, errs.ErrArgument)
		}
	}
	return nil
}
