package task_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/privacy"
	"github.com/cryptflow/cryptflow/go/task"
)

func sample() *task.Task {
	return &task.Task{
		Name: "ward", Nonce: [32]byte{1}, Mode: params.SumKey, Preset: "n4096-q102", Bits: 16, Rounding: params.Stochastic, Encoding: params.Lanes, Ranges: task.RangesFixed,
		Layout:       task.Layout{{Name: "conv.weight", Shape: []uint64{2, 3}, Range: 1}, {Name: "bias", Shape: nil, Range: 0.5}},
		InitialModel: task.Digest{2}, WeightCap: 100, Members: []task.Member{{Name: "a", Organisation: "x"}, {Name: "b", Organisation: "y"}, {Name: "c", Organisation: "y"}},
		MaxClients: 3, MinCohort: 2, Permille: 800, PerOrganisation: 2, Deadline: 60, Rounds: 10, Aggregator: task.Key{3}, KMS: task.Key{4},
	}
}

// private is a task with privacy.
func private(t testing.TB, change func(*task.Task)) *task.Task {
	x := sample()
	x.Rounding, x.WeightCap = params.NearestEven, 1
	p, err := privacy.Derive(privacy.Promise{Clip: 0.5, Multiplier: 1, Delta: 1e-5, Colluding: 1}, x.Bits, x.Layout.Values(), x.MinCohort)
	if err != nil {
		t.Fatal(err)
	}
	for i := range x.Layout {
		x.Layout[i].Range = p.Range(x.Bits)
	}
	x.Privacy = &p
	change(x)
	return x
}

// TestPrivateTasksReleaseNothingWithoutNoise: whatever noise does not cover is
// refused, and so is less noise than promised.
func TestPrivateTasksReleaseNothingWithoutNoise(t *testing.T) {
	if err := private(t, func(*task.Task) {}).Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*task.Task){
		"shared-key":   func(x *task.Task) { x.Mode = params.SharedKey },
		"slots":        func(x *task.Task) { x.Encoding = params.Slots },
		"stochastic":   func(x *task.Task) { x.Rounding = params.Stochastic },
		"negotiated":   func(x *task.Task) { x.Ranges = task.RangesNegotiated },
		"adaptive":     func(x *task.Task) { x.Ranges = task.RangesAdaptive },
		"weights":      func(x *task.Task) { x.WeightCap = 2 },
		"metrics":      func(x *task.Task) { x.Metrics = []string{"loss"} },
		"one range":    func(x *task.Task) { x.Layout[1].Range *= 2 },
		"bits":         func(x *task.Task) { x.Bits = 15 },
		"variance":     func(x *task.Task) { x.Privacy.Variance-- },
		"multiplier":   func(x *task.Task) { x.Privacy.Multiplier *= 1.0001 },
		"collusion":    func(x *task.Task) { x.Privacy.Colluding = 2 },
		"steps":        func(x *task.Task) { x.Privacy.Steps++ },
		"small bound":  func(x *task.Task) { x.Privacy.Bound = uint64(x.Privacy.Steps) },
		"delta":        func(x *task.Task) { x.Privacy.Delta = 0 },
		"not a number": func(x *task.Task) { x.Privacy.Clip = math.NaN() },
	} {
		x := private(t, change)
		err := x.Check()
		if !errors.Is(err, errs.ErrArgument) && !errors.Is(err, errs.ErrParameters) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := task.ParseTask(x.Canonical()); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

// objects are one of each, with their parsers.
func objects() map[string]struct {
	object task.Object
	parse  func([]byte) (task.Object, error)
} {
	type entry = struct {
		object task.Object
		parse  func([]byte) (task.Object, error)
	}
	return map[string]entry{
		"task":     {sample(), func(b []byte) (task.Object, error) { return task.ParseTask(b) }},
		"private":  {private(nil, func(*task.Task) {}), func(b []byte) (task.Object, error) { return task.ParseTask(b) }},
		"extended": {extended(), func(b []byte) (task.Object, error) { return task.ParseTask(b) }},
		"spec":     {&task.RoundSpec{Kind: task.KindValues, Task: task.Digest{1}, Round: 2, Lanes: 3, LogDelta: 4, HPKE: []byte("key"), PublicKey: task.Digest{5}}, func(b []byte) (task.Object, error) { return task.ParseRoundSpec(b) }},
		"manifest": {&task.Manifest{Spec: task.Digest{1}, Entries: []task.Entry{{Client: "a", Root: task.Digest{2}, Weight: 1}, {Client: "b", Weight: 2}}}, func(b []byte) (task.Object, error) { return task.ParseManifest(b) }},
		"receipt":  {&task.Receipt{Spec: task.Digest{1}, Client: "a", Frames: 3, Bytes: 1 << 40, Weight: 1}, func(b []byte) (task.Object, error) { return task.ParseReceipt(b) }},
		"deposit":  {&task.Deposit{Spec: task.Digest{1}, Client: "a", Root: task.Digest{2}}, func(b []byte) (task.Object, error) { return task.ParseDeposit(b) }},
		"released": {&task.Decision{Spec: task.Digest{1}, Outcome: task.Released, Terms: 3, Weights: 3, Squares: 3}, func(b []byte) (task.Object, error) { return task.ParseDecision(b) }},
		"aborted":  {&task.Decision{Spec: task.Digest{1}, Outcome: task.Aborted, Reason: "below the floor"}, func(b []byte) (task.Object, error) { return task.ParseDecision(b) }},
		"result":   {&task.Result{Spec: task.Digest{1}, Root: task.Digest{2}, Frames: 7, Terms: 3}, func(b []byte) (task.Object, error) { return task.ParseResult(b) }},
	}
}

// TestOneByteStringForEachObject: what parses is canonical, what is cut or
// longer does not parse, and a changed bit is an error or another object.
func TestOneByteStringForEachObject(t *testing.T) {
	for name, x := range objects() {
		t.Run(name, func(t *testing.T) {
			good := x.object.Canonical()
			got, err := x.parse(good)
			if err != nil || !bytes.Equal(got.Canonical(), good) {
				t.Fatalf("does not round-trip: %v", err)
			}
			for n := range good {
				if _, err := x.parse(good[:n]); !errors.Is(err, errs.ErrCanonical) {
					t.Fatalf("%d of %d bytes: %v", n, len(good), err)
				}
			}
			if _, err := x.parse(append(bytes.Clone(good), 0)); !errors.Is(err, errs.ErrCanonical) {
				t.Fatalf("a byte more: %v", err)
			}
			for i := range 8 * len(good) {
				bad := bytes.Clone(good)
				bad[i/8] ^= 1 << (i % 8)
				if got, err := x.parse(bad); err == nil && !bytes.Equal(got.Canonical(), bad) {
					t.Fatalf("bit %d: parsed to an object of other bytes", i)
				}
			}
			for other, y := range objects() {
				tasks := []string{"task", "private", "extended"}
				both := slices.Contains(tasks, name) && slices.Contains(tasks, other)
				if strings.HasPrefix(other, "released") || strings.HasPrefix(other, "aborted") || other == name || both {
					continue
				}
				if _, err := y.parse(good); err == nil {
					t.Fatalf("parsed as %s", other)
				}
			}
		})
	}
}

func TestClaimsBeyondTheBytesAllocateNothing(t *testing.T) {
	b := (&task.Manifest{}).Canonical()
	copy(b[len(b)-4:], []byte{0xff, 0xff, 0xff, 0xff})
	if _, err := task.ParseManifest(b); !errors.Is(err, errs.ErrCanonical) {
		t.Fatal(err)
	}
	var before = testing.AllocsPerRun(10, func() { _, _ = task.ParseManifest(b) })
	if before > 20 {
		t.Fatalf("%v allocations", before)
	}
}

func TestSignatures(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := task.Sign(sample(), private)
	if err := s.Verify(task.Key(public)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]task.Signed{
		"bytes":     {Bytes: append(bytes.Clone(s.Bytes), 0), Signature: s.Signature},
		"signature": {Bytes: s.Bytes, Signature: append(bytes.Clone(s.Signature[:63]), s.Signature[63]^1)},
		"short":     {Bytes: s.Bytes, Signature: s.Signature[:63]},
		"none":      {Bytes: s.Bytes},
	} {
		if err := bad.Verify(task.Key(public)); !errors.Is(err, errs.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Verify(task.Key{1}); !errors.Is(err, errs.ErrSignature) {
		t.Errorf("another key: %v", err)
	}
}

func TestTasksThatNoRoundSatisfies(t *testing.T) {
	if err := sample().Check(); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		change func(*task.Task)
		want   error
	}{
		"name":               {func(t *task.Task) { t.Name = "../x" }, errs.ErrArgument},
		"no tensors":         {func(t *task.Task) { t.Layout = nil }, errs.ErrLayout},
		"empty tensor":       {func(t *task.Task) { t.Layout[0].Shape = []uint64{0} }, errs.ErrLayout},
		"huge tensor":        {func(t *task.Task) { t.Layout[0].Shape = []uint64{1 << 40, 1 << 40} }, errs.ErrLayout},
		"tensor twice":       {func(t *task.Task) { t.Layout[1].Name = "conv.weight" }, errs.ErrLayout},
		"range 0":            {func(t *task.Task) { t.Layout[0].Range = 0 }, errs.ErrLayout},
		"range NaN":          {func(t *task.Task) { t.Layout[0].Range = float32(math.NaN()) }, errs.ErrLayout},
		"range infinite":     {func(t *task.Task) { t.Layout[0].Range = float32(math.Inf(1)) }, errs.ErrLayout},
		"mode":               {func(t *task.Task) { t.Mode = 0 }, errs.ErrParameters},
		"preset":             {func(t *task.Task) { t.Preset = "n1024" }, errs.ErrParameters},
		"bits":               {func(t *task.Task) { t.Bits = 31 }, errs.ErrParameters},
		"member twice":       {func(t *task.Task) { t.Members[1].Name = "a" }, errs.ErrArgument},
		"member misnamed":    {func(t *task.Task) { t.Members[1].Name = "B b" }, errs.ErrArgument},
		"weight cap 0":       {func(t *task.Task) { t.WeightCap = 0 }, errs.ErrArgument},
		"cohort of one":      {func(t *task.Task) { t.MinCohort = 1 }, errs.ErrArgument},
		"cohort above n_max": {func(t *task.Task) { t.MinCohort = 4 }, errs.ErrArgument},
		"too few members":    {func(t *task.Task) { t.Members = t.Members[:1] }, errs.ErrArgument},
		"fraction":           {func(t *task.Task) { t.Permille = 1001 }, errs.ErrArgument},
		"no deadline":        {func(t *task.Task) { t.Deadline = 0 }, errs.ErrArgument},
		"no rounds":          {func(t *task.Task) { t.Rounds = 0 }, errs.ErrArgument},
	} {
		t.Run(name, func(t *testing.T) {
			s := sample()
			x.change(s)
			if err := s.Check(); !errors.Is(err, x.want) {
				t.Fatalf("%v, want %v", err, x.want)
			}
			if _, err := task.ParseTask(s.Canonical()); !errors.Is(err, x.want) {
				t.Fatalf("parsed: %v", err)
			}
		})
	}
}

func TestLayoutsNameTheFirstDifference(t *testing.T) {
	want := sample().Layout
	for words, got := range map[string]task.Layout{
		`the model has no more tensors`:      want[:1],
		`the task has no more tensors`:       append(append(task.Layout{}, want...), task.Tensor{Name: "x"}),
		`the model has "conv.bias"`:          {{Name: "conv.bias", Shape: []uint64{2, 3}}, want[1]},
		`has shape [2 3], the model has [6]`: {{Name: "conv.weight", Shape: []uint64{6}}, want[1]},
	} {
		if err := want.Compare(got); !errors.Is(err, errs.ErrLayout) || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
	if err := want.Compare(want); err != nil {
		t.Fatal(err)
	}
	if want.Values() != 7 {
		t.Fatalf("%d values", want.Values())
	}
}

func TestModelDigestsChain(t *testing.T) {
	values := []float32{1, 2, 3}
	first := task.InitialModel(task.Digest{1}, values)
	seen := map[task.Digest]string{first: "first"}
	for name, d := range map[string]task.Digest{
		"layout":    task.InitialModel(task.Digest{2}, values),
		"values":    task.InitialModel(task.Digest{1}, []float32{1, 2, 4}),
		"zero sign": task.InitialModel(task.Digest{1}, []float32{1, 2, float32(math.Copysign(0, -1))}),
		"next":      task.NextModel(first, task.Digest{1}, task.Digest{2}),
		"spec":      task.NextModel(first, task.Digest{2}, task.Digest{2}),
		"result":    task.NextModel(first, task.Digest{1}, task.Digest{3}),
	} {
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[d] = name
	}
	long := make([]float32, 1<<15+3)
	if task.InitialModel(task.Digest{}, long) == task.InitialModel(task.Digest{}, long[1:]) {
		t.Error("lengths are told apart")
	}
}

func TestARoundGoesForwardOnly(t *testing.T) {
	path := []task.State{task.RoundCreated, task.RoundKeyed, task.RoundCollecting, task.RoundSealed, task.RoundFolding, task.RoundPublished, task.RoundKeysDestroyed}
	allowed := map[string]bool{}
	for i := 1; i < len(path); i++ {
		allowed[fmt.Sprint(path[i-1], path[i])] = true
	}
	for _, s := range path[:4] {
		allowed[fmt.Sprint(s, task.RoundAborted)] = true
	}
	all := append(append([]task.State{0, 99}, path...), task.RoundAborted)
	for _, from := range all {
		for _, to := range all {
			err := from.Step(to)
			if want := allowed[fmt.Sprint(from, to)]; want != (err == nil) || (err != nil && !errors.Is(err, errs.ErrState)) {
				t.Errorf("%v to %v: %v", from, to, err)
			}
		}
	}
	for _, s := range []task.State{task.RoundKeysDestroyed, task.RoundAborted} {
		if !s.Final() {
			t.Errorf("%v is final", s)
		}
	}
}

func FuzzObjects(f *testing.F) {
	for _, x := range objects() {
		f.Add(x.object.Canonical())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, x := range objects() {
			if got, err := x.parse(b); err == nil && !bytes.Equal(got.Canonical(), b) {
				t.Fatalf("%s of other bytes", name)
			}
		}
	})
}
