package task_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/task"
)

// extended is a task with extensions 2 to 4.
func extended() *task.Task {
	x := sample()
	x.Layout[1].Precise, x.Layout[1].NonNegative = true, true
	x.MinCohort, x.Trim, x.Ranges, x.Canaries = 3, 2, task.RangesNegotiated, 8
	return x
}

// item is one extension as bytes.
func item(id uint32, content ...byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(content)))
	return append(b, content...)
}

// withExtensions are the bytes of a plain task followed by a list of extensions.
func withExtensions(t *task.Task, items ...[]byte) []byte {
	b := bytes.Replace(t.Canonical(), []byte("cryptflow/v1/task"), []byte("cryptflow/v2/task"), 1)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(items)))
	return append(b, bytes.Join(items, nil)...)
}

// TestExtensionsRoundTrip: every combination has one byte string, and without
// any it is that of the first version.
func TestExtensionsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := sample()
		if rapid.Bool().Draw(t, "privacy") {
			x = private(nil, func(*task.Task) {})
		}
		for k := range x.Layout {
			x.Layout[k].Precise = x.Privacy == nil && rapid.Bool().Draw(t, "precise")
			x.Layout[k].NonNegative = rapid.Bool().Draw(t, "non-negative")
		}
		if x.Privacy == nil {
			x.Ranges = task.RangesNegotiated
			x.Trim = rapid.Uint32Range(0, x.MinCohort-1).Draw(t, "trim")
		}
		x.Canaries = rapid.Uint32Range(0, params.MaxCanaries).Draw(t, "canaries")
		b := x.Canonical()
		got, err := task.ParseTask(b)
		if err != nil || !bytes.Equal(got.Canonical(), b) || got.Trim != x.Trim || got.Canaries != x.Canaries || (got.Privacy == nil) != (x.Privacy == nil) {
			t.Fatalf("does not round-trip: %v", err)
		}
		plain := x.Trim == 0 && x.Canaries == 0
		for k, want := range x.Layout {
			plain = plain && !want.Precise && !want.NonNegative
			if got.Layout[k].Precise != want.Precise || got.Layout[k].NonNegative != want.NonNegative {
				t.Fatalf("tensor %d is read as %+v", k, got.Layout[k])
			}
		}
		if plain == bytes.Contains(b, []byte("cryptflow/v2/task")) {
			t.Fatalf("the wrong tag: %q", b[:30])
		}
	})
	if task.DigestOf(sample().Layout) != task.DigestOf(extended().Layout) {
		t.Error("flags are not part of a model's layout")
	}
}

// TestOneFormOfExtensions: whatever is not what a task writes is refused.
func TestOneFormOfExtensions(t *testing.T) {
	tensors, trim := item(2, 0, 3), item(3, 1, 0, 0, 0)
	if _, err := task.ParseTask(withExtensions(negotiated(), tensors, trim)); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		items [][]byte
		words string
	}{
		"none":               {nil, "another tag"},
		"descending":         {[][]byte{trim, tensors}, "ascend"},
		"twice":              {[][]byte{trim, trim}, "ascend"},
		"id 0":               {[][]byte{item(0, 1)}, "ascend"},
		"unknown":            {[][]byte{trim, item(5, 1)}, "newer version of cryptflow is needed"},
		"unknown and large":  {[][]byte{item(1<<32-1, 1)}, "newer version of cryptflow is needed"},
		"empty":              {[][]byte{tensors, item(3)}, ""},
		"no flags":           {[][]byte{item(2, 0, 0)}, "canonical form"},
		"unknown flag":       {[][]byte{item(2, 0, 4)}, "canonical form"},
		"a flag too few":     {[][]byte{item(2, 1)}, "ends early"},
		"a flag too many":    {[][]byte{item(2, 1, 1, 1)}, "trailing"},
		"trim of 3 bytes":    {[][]byte{item(3, 1, 0, 0)}, "ends early"},
		"trim of 5 bytes":    {[][]byte{item(3, 1, 0, 0, 0, 0)}, "trailing"},
		"trim 0":             {[][]byte{tensors, item(3, 0, 0, 0, 0)}, "canonical form"},
		"canaries 0":         {[][]byte{item(4, 0, 0, 0, 0)}, "canonical form"},
		"canaries, 5 bytes":  {[][]byte{item(4, 8, 0, 0, 0, 0)}, "trailing"},
		"something after":    {[][]byte{tensors, trim[:4]}, ""},
		"privacy cut":        {[][]byte{item(1, 1, 2, 3), tensors}, "ends early"},
		"longer than it all": {[][]byte{{3, 0, 0, 0, 255, 255, 255, 255, 1}}, ""},
	} {
		_, err := task.ParseTask(withExtensions(negotiated(), x.items...))
		if !errors.Is(err, errs.ErrCanonical) || !strings.Contains(err.Error(), x.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Privacy alone has its own tag.
	p := private(t, func(*task.Task) {})
	content := p.Canonical()[len(plainOf(p).Canonical())+len("private-"):]
	if _, err := task.ParseTask(withExtensions(plainOf(p), item(1, content...), item(2, 0, 2))); err != nil {
		t.Fatal(err)
	}
	if _, err := task.ParseTask(withExtensions(plainOf(p), item(1, content...))); !errors.Is(err, errs.ErrCanonical) {
		t.Errorf("privacy alone: %v", err)
	}
	claim := withExtensions(negotiated(), trim)
	binary.LittleEndian.PutUint32(claim[len(claim)-len(trim)-4:], 1<<31)
	if _, err := task.ParseTask(claim); !errors.Is(err, errs.ErrCanonical) || !strings.Contains(err.Error(), "claimed") {
		t.Errorf("a claim: %v", err)
	}
}

// negotiated is a task that can trim.
func negotiated() *task.Task {
	return changed(sample(), func(x *task.Task) { x.Ranges = task.RangesNegotiated })
}

// plainOf is a task without its privacy.
func plainOf(x *task.Task) *task.Task {
	y := *x
	y.Privacy = nil
	return &y
}

func TestExtensionsThatNoRoundSatisfies(t *testing.T) {
	if err := extended().Check(); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]*task.Task{
		"trim of fixed":      changed(extended(), func(x *task.Task) { x.Ranges = task.RangesFixed }),
		"trim":               changed(extended(), func(x *task.Task) { x.Trim = x.MinCohort }),
		"canaries":           changed(extended(), func(x *task.Task) { x.Canaries = params.MaxCanaries + 1 }),
		"shared canaries":    changed(extended(), func(x *task.Task) { x.Mode = params.SharedKey }),
		"precise slots":      changed(extended(), func(x *task.Task) { x.Encoding = params.Slots }),
		"precise and noised": private(t, func(x *task.Task) { x.Layout[0].Precise = true }),
	} {
		if err := x.Check(); !errors.Is(err, errs.ErrArgument) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := task.ParseTask(x.Canonical()); !errors.Is(err, errs.ErrArgument) {
			t.Errorf("%s, parsed: %v", name, err)
		}
	}
}

func changed(x *task.Task, change func(*task.Task)) *task.Task {
	change(x)
	return x
}
