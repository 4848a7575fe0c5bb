package timing_test

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/timing"
)

// machine is a clock that functions move on: what is tested is the harness,
// not this computer.
type machine struct {
	now int64
	rng *rand.Rand
}

func (m *machine) clock() int64 { return m.now }

// spend moves the clock on, with the noise of a computer: a little always,
// and at times an interrupt.
func (m *machine) spend(ns int64) {
	m.now += ns + int64(20*math.Abs(m.rng.NormFloat64()))
	if m.rng.IntN(50) == 0 {
		m.now += 1000 + m.rng.Int64N(100000)
	}
}

// TestALeakIsFound: comparing byte by byte until the first difference, a
// branch on one bit and a spread that depends on the input are found;
// functions that take the same time are not accused.
func TestALeakIsFound(t *testing.T) {
	secret := bytes.Repeat([]byte{0x5a}, 16)
	for _, c := range []struct {
		name string
		n    int
		run  func(m *machine, input []byte)
		want timing.Verdict
	}{
		{"comparison that stops early", 4000, func(m *machine, input []byte) {
			for i := range input {
				if m.now += 3; input[i] != secret[i] {
					break
				}
			}
			m.spend(100)
		}, timing.Depends},
		{"a branch on one bit", 4000, func(m *machine, input []byte) { m.spend(100 + 12*int64(input[0]&1)) }, timing.Depends},
		{"a spread that depends", 8000, func(m *machine, input []byte) {
			m.spend(100 + 20*int64(input[1]&1)*(1-2*int64(input[2]&1)))
		}, timing.Depends},
		{"nothing", 8000, func(m *machine, _ []byte) { m.spend(100) }, timing.NoneFound},
		{"nothing, without noise", 500, func(m *machine, _ []byte) { m.now += 100 }, timing.NoneFound},
	} {
		m := &machine{rng: rand.New(rand.NewPCG(1, 2))}
		input := make([]byte, 16)
		r := timing.Measure(timing.Case{Name: c.name, Prepare: func(random bool) {
			copy(input, secret)
			for i := range input {
				if v := byte(m.rng.Uint32()); random {
					input[i] = v
				}
			}
		}, Run: func() { c.run(m, input) }}, c.n, m.clock, rand.New(rand.NewPCG(3, 4)))
		if r.Verdict() != c.want || r.Measurements != c.n {
			t.Errorf("%s: |t| = %.2f at crop %s: %s, want %s", c.name, math.Abs(r.T), r.Crop, r.Verdict(), c.want)
		}
	}
}

func TestWelch(t *testing.T) {
	// Worked by hand: means 2 and 5, variances 1 and 4, 3 values each.
	if got, want := timing.Welch([]float64{1, 2, 3}, []float64{3, 5, 7}), -3/math.Sqrt(1.0/3+4.0/3); math.Abs(got-want) > 1e-12 {
		t.Errorf("t = %v, want %v", got, want)
	}
	if got := timing.Welch([]float64{1}, []float64{2, 3}); got != 0 {
		t.Errorf("of one measurement: %v", got)
	}
	if got := timing.Welch([]float64{1, 1}, []float64{2, 2}); !math.IsInf(got, -1) {
		t.Errorf("of constants: %v", got)
	}
}

// TestTheTableSaysWhatWasMeasured runs on this computer's clock.
func TestTheTableSaysWhatWasMeasured(t *testing.T) {
	runs := 0
	results, table := timing.Run(64, []timing.Case{{Name: "a function", Prepare: func(bool) {}, Run: func() { runs++ }}})
	if len(results) != 1 || runs < 64 || !strings.Contains(table, "a function") || !strings.Contains(table, string(results[0].Verdict())) {
		t.Fatalf("%d runs: %v\n%s", runs, results, table)
	}
}

func TestMeasurementsAskedFor(t *testing.T) {
	t.Setenv("CRYPTFLOW_TIMING", "")
	if n, err := timing.Wanted(); err != nil || n < 1 {
		t.Fatal(n, err)
	}
	t.Setenv("CRYPTFLOW_TIMING", "5000")
	if n, err := timing.Wanted(); err != nil || n != 5000 {
		t.Fatal(n, err)
	}
	for _, bad := range []string{"1", "many", "-5"} {
		t.Setenv("CRYPTFLOW_TIMING", bad)
		if _, err := timing.Wanted(); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
