package kms_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/kms"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/task"
)

// stage is one round with everything the gate looks at; a test changes it.
type stage struct {
	gate kms.Gate
	task *task.Task
	spec *task.RoundSpec
	kms.Facts
	manifest *task.Manifest
}

// newStage has ten enrolled clients of five organisations, all of which
// deposited, and nine of which are in the set.
func newStage(t *testing.T, mode params.Mode) *stage {
	t.Helper()
	x := &stage{gate: kms.Gate{Floor: kms.DefaultFloor}, task: &task.Task{
		Name: "t", Mode: mode, Preset: "n4096-q102", Bits: 16, Rounding: params.Stochastic, Encoding: params.Lanes, Ranges: task.RangesFixed,
		Layout:       task.Layout{{Name: "w", Shape: []uint64{3}, Range: 1}},
		InitialModel: task.Digest{1}, WeightCap: 9, MaxClients: 10, MinCohort: 3, Permille: 800, Deadline: 60, Rounds: 5,
	}}
	for i := range 10 {
		x.task.Members = append(x.task.Members, task.Member{Name: fmt.Sprintf("c%d", i), Organisation: fmt.Sprintf("o%d", i/2)})
	}
	scheme, err := x.task.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	x.spec = &task.RoundSpec{Kind: task.KindValues,
		Task: task.DigestOf(x.task), ModelDigest: x.task.InitialModel, LayoutDigest: task.DigestOf(x.task.Layout),
		Lanes: uint32(scheme.Lanes), LogDelta: uint32(scheme.LogDelta), HPKE: []byte{1},
	}
	if mode == params.SharedKey {
		x.spec.PublicKey = task.Digest{2}
	}
	x.manifest = &task.Manifest{Spec: task.DigestOf(x.spec)}
	for i, m := range x.task.Members {
		root := task.Digest{byte(i), 7}
		x.Deposits = append(x.Deposits, task.Deposit{Spec: x.manifest.Spec, Client: m.Name, ModelDigest: x.spec.ModelDigest, Root: root, Weight: 1})
		if i < 9 {
			x.manifest.Entries = append(x.manifest.Entries, task.Entry{Client: m.Name, Root: root, ModelDigest: x.spec.ModelDigest, Weight: 1})
		}
	}
	if err := x.gate.Feasible(x.task); err != nil {
		t.Fatal(err)
	}
	return x
}

// retask changes the task and what follows from it.
func (x *stage) retask(change func(*task.Task)) {
	change(x.task)
	x.spec.Task = task.DigestOf(x.task)
	x.manifest.Spec = task.DigestOf(x.spec)
	for i := range x.Deposits {
		x.Deposits[i].Spec = x.manifest.Spec
	}
}

func TestTheGate(t *testing.T) {
	for _, x := range []struct {
		name   string
		change func(*stage)
		words  string // of the refusal; empty: released
	}{
		{"as it is", func(*stage) {}, ""},
		{"exactly the fraction", func(x *stage) { x.manifest.Entries = x.manifest.Entries[:8] }, ""},
		{"below the fraction", func(x *stage) { x.manifest.Entries = x.manifest.Entries[:7] }, "3 of 10 clients that announced themselves are missing (c7, c8, c9), at most 2"},
		{"several deposits of a client count once", func(x *stage) {
			d := x.Deposits[9]
			for i := range 3 {
				d.Root = task.Digest{99, byte(i)}
				x.Deposits = append(x.Deposits, d)
			}
			x.manifest.Entries = x.manifest.Entries[:8]
		}, ""},
		{"deposits of another round do not count", func(x *stage) {
			x.Deposits = x.Deposits[:3]
			for i := range 7 {
				x.Deposits = append(x.Deposits, task.Deposit{Client: fmt.Sprintf("c%d", i+3), Spec: task.Digest{9}})
			}
			x.manifest.Entries = x.manifest.Entries[:3]
		}, ""},
		{"the floor", func(x *stage) { x.Deposits, x.manifest.Entries = x.Deposits[:3], x.manifest.Entries[:3] }, ""},
		{"below the floor", func(x *stage) { x.Deposits, x.manifest.Entries = x.Deposits[:2], x.manifest.Entries[:2] }, "2 clients, at least 3"},
		{"no clients", func(x *stage) { x.Deposits, x.manifest.Entries = nil, nil }, "0 clients, at least 3"},
		{"the task's floor is the task's", func(x *stage) {
			x.retask(func(t *task.Task) { t.MinCohort = 10 })
		}, "9 clients, at least 10"},
		{"no configuration goes below two", func(x *stage) {
			x.gate.Floor = 0
			x.retask(func(t *task.Task) { t.MinCohort = 2 })
			x.Deposits, x.manifest.Entries = x.Deposits[:1], x.manifest.Entries[:1]
		}, "1 clients, at least 2"},
		{"above n_max", func(x *stage) {
			x.retask(func(t *task.Task) { t.MaxClients = 8 })
		}, "9 clients, at most 8"},
		{"unknown client", func(x *stage) { x.manifest.Entries[8].Client = "c99" }, `"c99" is not enrolled`},
		{"a client twice", func(x *stage) { x.manifest.Entries[1] = x.manifest.Entries[0] }, "none occurs twice"},
		{"out of order", func(x *stage) {
			e := x.manifest.Entries
			e[0], e[1] = e[1], e[0]
		}, "ascending"},
		{"another model", func(x *stage) { x.manifest.Entries[4].ModelDigest = task.Digest{8} }, `"c4" started from another model`},
		{"all from one model, but not the round's", func(x *stage) {
			for i := range x.manifest.Entries {
				x.manifest.Entries[i].ModelDigest = task.Digest{8}
				x.Deposits[i].ModelDigest = task.Digest{8}
			}
		}, "started from another model"},
		{"no deposit", func(x *stage) { x.Deposits = x.Deposits[1:] }, `"c0" made no deposit`},
		{"deposit of another root", func(x *stage) { x.manifest.Entries[3].Root = task.Digest{55} }, `"c3" made no deposit`},
		{"another client's deposit", func(x *stage) { x.manifest.Entries[3].Root = x.manifest.Entries[2].Root }, `"c3" made no deposit`},
		{"weight 0", func(x *stage) { x.manifest.Entries[3].Weight = 0 }, "weight 0"},
		{"public weight in sum-key", func(x *stage) { x.manifest.Entries[3].Weight = 2 }, "weight 2"},
		{"organisation at its cap", func(x *stage) {
			x.retask(func(t *task.Task) { t.PerOrganisation = 2 })
		}, ""},
		{"organisation above its cap", func(x *stage) {
			x.retask(func(t *task.Task) { t.PerOrganisation = 1 })
		}, `more than 1 clients of "o0"`},
		{"another specification", func(x *stage) { x.manifest.Spec = task.Digest{3} }, "another specification"},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := newStage(t, params.SumKey)
			x.change(s)
			d, err := s.gate.Decide(nil, s.task, s.spec, &s.Facts, s.manifest)
			if x.words == "" {
				if err != nil {
					t.Fatal(err)
				}
				n := uint32(len(s.manifest.Entries))
				if d.Outcome != task.Released || d.Terms != n || d.Weights != n || d.Squares != uint64(n) || d.Manifest != task.DigestOf(s.manifest) {
					t.Fatalf("%+v", d)
				}
				return
			}
			if d != nil || !errors.Is(err, errs.ErrManifest) || !strings.Contains(err.Error(), x.words) {
				t.Fatalf("%v, want a refusal with %q", err, x.words)
			}
		})
	}
}

func TestASpecificationThatWidensTheTaskIsRefused(t *testing.T) {
	for name, change := range map[string]func(*task.RoundSpec){
		"another task":        func(s *task.RoundSpec) { s.Task[0]++ },
		"another layout":      func(s *task.RoundSpec) { s.LayoutDigest[0]++ },
		"other lanes":         func(s *task.RoundSpec) { s.Lanes++ },
		"another scale":       func(s *task.RoundSpec) { s.LogDelta-- },
		"no deposit key":      func(s *task.RoundSpec) { s.HPKE = nil },
		"a public key":        func(s *task.RoundSpec) { s.PublicKey[0]++ },
		"another first model": func(s *task.RoundSpec) { s.ModelDigest[0]++ },
	} {
		t.Run(name, func(t *testing.T) {
			x := newStage(t, params.SumKey)
			change(x.spec)
			if _, err := x.gate.Decide(nil, x.task, x.spec, &x.Facts, x.manifest); !errors.Is(err, errs.ErrSpec) {
				t.Fatal(err)
			}
		})
	}
}

func TestPublicWeightsAreSummedInSharedKey(t *testing.T) {
	x := newStage(t, params.SharedKey)
	for i := range x.manifest.Entries {
		x.manifest.Entries[i].Weight, x.Deposits[i].Weight = uint32(i+1), uint32(i+1)
	}
	d, err := x.gate.Decide(nil, x.task, x.spec, &x.Facts, x.manifest)
	if err != nil || d.Terms != 9 || d.Weights != 45 || d.Squares != 285 {
		t.Fatalf("%+v, %v", d, err)
	}
	// An aggregator that writes other weights than the clients deposited, however
	// valid, would make the mean one client's update.
	for k := range x.manifest.Entries {
		x.manifest.Entries[k].Weight++
		if _, err := x.gate.Decide(nil, x.task, x.spec, &x.Facts, x.manifest); !errors.Is(err, errs.ErrManifest) {
			t.Fatalf("entry %d with another weight: %v", k, err)
		}
		x.manifest.Entries[k].Weight--
	}
	x.Deposits[0].Weight, x.manifest.Entries[0].Weight = 0, 1
	if _, err := x.gate.Decide(nil, x.task, x.spec, &x.Facts, x.manifest); !errors.Is(err, errs.ErrManifest) {
		t.Fatalf("a deposit that states no weight: %v", err)
	}
	x.Deposits[0].Weight = 1
	x.manifest.Entries[8].Weight, x.Deposits[8].Weight = 10, 10
	if _, err := x.gate.Decide(nil, x.task, x.spec, &x.Facts, x.manifest); !errors.Is(err, errs.ErrManifest) {
		t.Fatal(err)
	}
}

// TestAnnouncementsBindTheAggregator: whoever announced counts as willing, also
// when no deposit came, because the aggregator stalled the upload.
func TestAnnouncementsBindTheAggregator(t *testing.T) {
	for _, c := range []struct {
		announced, set int
		permille       uint32
		ok             bool
	}{
		{10, 10, 800, true}, {10, 8, 800, true}, {10, 7, 800, false}, {10, 3, 800, false},
		{4, 3, 800, true}, {4, 3, 1000, false}, {4, 4, 1000, true}, {10, 3, 0, true}, {3, 3, 800, true},
	} {
		x := newStage(t, params.SumKey)
		x.retask(func(t *task.Task) { t.Permille = c.permille })
		x.Announced = nil
		for i := range c.announced {
			x.Announced = append(x.Announced, fmt.Sprintf("c%d", i))
		}
		x.Deposits = x.Deposits[:min(c.set, len(x.Deposits))]
		x.manifest.Entries = x.manifest.Entries[:0]
		for _, d := range x.Deposits {
			x.manifest.Entries = append(x.manifest.Entries, task.Entry{Client: d.Client, Root: d.Root, ModelDigest: d.ModelDigest, Weight: 1})
		}
		_, err := x.gate.Decide(nil, x.task, x.spec, &x.Facts, x.manifest)
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
		if c.ok && len(x.Missing(x.manifest)) != c.announced-c.set {
			t.Errorf("%+v: missing are %v", c, x.Missing(x.manifest))
		}
	}
	x := newStage(t, params.SumKey)
	x.Excluded = []string{"c9"}
	if m := x.Missing(x.manifest); len(m) != 0 {
		t.Errorf("a refused client counts as missing: %v", m)
	}
	x.Excluded = []string{"c3"}
	if _, err := x.gate.Decide(nil, x.task, x.spec, &x.Facts, x.manifest); !errors.Is(err, errs.ErrManifest) {
		t.Errorf("a refused client is in the set: %v", err)
	}
}

func TestDecisionsAreFinal(t *testing.T) {
	x := newStage(t, params.SumKey)
	released, err := x.gate.Decide(nil, x.task, x.spec, &x.Facts, x.manifest)
	if err != nil {
		t.Fatal(err)
	}
	again, err := x.gate.Decide(released, x.task, x.spec, &x.Facts, x.manifest)
	if err != nil || task.DigestOf(again) != task.DigestOf(released) {
		t.Fatalf("the same set again: %v", err)
	}
	other := &task.Manifest{Spec: x.manifest.Spec, Entries: x.manifest.Entries[:8]}
	if _, err := x.gate.Decide(released, x.task, x.spec, &x.Facts, other); !errors.Is(err, errs.ErrDecided) {
		t.Fatalf("a second set: %v", err)
	}
	if _, err := x.gate.Abort(released, x.manifest.Spec, "late"); !errors.Is(err, errs.ErrDecided) {
		t.Fatalf("abort after release: %v", err)
	}
	aborted, err := x.gate.Abort(nil, x.manifest.Spec, "below the floor")
	if err != nil || aborted.Outcome != task.Aborted {
		t.Fatal(err)
	}
	if _, err := x.gate.Decide(aborted, x.task, x.spec, &x.Facts, x.manifest); !errors.Is(err, errs.ErrDecided) {
		t.Fatalf("release after abort: %v", err)
	}
	if twice, err := x.gate.Abort(aborted, x.manifest.Spec, "another reason"); err != nil || twice.Reason != "below the floor" {
		t.Fatalf("aborted twice: %v", err)
	}
}

func TestTasksThatCouldNeverOpenAreRefused(t *testing.T) {
	x := newStage(t, params.SumKey)
	if err := (kms.Gate{Floor: 11}).Feasible(x.task); !errors.Is(err, errs.ErrArgument) {
		t.Fatal(err)
	}
	x.task.MaxClients = 4
	if err := (kms.Gate{Floor: 5}).Feasible(x.task); !errors.Is(err, errs.ErrArgument) {
		t.Fatal(err)
	}
}
