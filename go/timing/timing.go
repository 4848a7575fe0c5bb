// Package timing looks for running times that depend on secrets, in the manner
// of dudect (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?",
// DATE 2017): the time of a function is measured for a fixed and for random
// inputs, in random order, and the two sets are compared with Welch's t-test,
// whole and cropped at percentiles, as slow measurements are those of
// interrupts.
//
// # Security
//
// A large |t| shows a difference. A small one shows that so many measurements
// on this machine did not find any; it proves nothing. On a busy machine equal
// functions reach 10 now and then: a difference is one that comes again. What
// code may do with secrets is stated where the code is.
package timing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Case is a function whose time must not depend on its inputs.
type Case struct {
	Name string
	// Prepare puts the fixed or new random inputs where Run finds them. It is
	// not measured and does the same work for both.
	Prepare func(random bool)
	Run     func()
}

// Verdict is what |t| says.
type Verdict string

// Verdicts, by the largest |t| of all crops. Of equal distributions it exceeds
// 4.5 for less than one run in a thousand; dudect speaks of a difference from
// 10 on.
const (
	NoneFound Verdict = "no difference found"
	Unclear   Verdict = "unclear: measure more"
	Depends   Verdict = "depends on the input"
)

// Result of one case.
type Result struct {
	Name         string
	Measurements int
	T            float64    // of largest magnitude
	Crop         string     // at which it was found
	Medians      [2]float64 // nanoseconds: fixed, random
}

// Verdict of a result.
func (r Result) Verdict() Verdict {
	switch t := math.Abs(r.T); {
	case t >= 10:
		return Depends
	case t >= 4.5:
		return Unclear
	}
	return NoneFound
}

// Wanted is how many measurements of each case are to be made: those of
// CRYPTFLOW_TIMING (make timing), or few that show only that a case runs.
func Wanted() (int, error) {
	text := os.Getenv("CRYPTFLOW_TIMING")
	if text == "" {
		return 64, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 64 {
		return 0, fmt.Errorf("CRYPTFLOW_TIMING is %q, want a number of at least 64", text)
	}
	return n, nil
}

var start = time.Now()

// Clock is monotonic, in nanoseconds.
func Clock() int64 { return int64(time.Since(start)) }

// crops are the percentiles at which measurements are cut off, as in dudect:
// dense where measurements are slow.
const crops = 100

// Measure makes n measurements of a case by the given clock.
func Measure(c Case, n int, clock func() int64, rng *rand.Rand) Result {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var times [2][]float64
	for i := range 8 + n {
		class := int(rng.Uint64() & 1)
		c.Prepare(class == 1)
		from := clock()
		c.Run()
		took := clock() - from
		if i >= 8 { // warm
			times[class] = append(times[class], float64(took))
		}
		if i%1024 == 1023 {
			runtime.GC()
		}
	}
	r := Result{Name: c.Name, Measurements: n}
	all := slices.Concat(times[0], times[1])
	slices.Sort(all)
	for class := range times {
		s := slices.Sorted(slices.Values(times[class]))
		if len(s) > 0 {
			r.Medians[class] = s[len(s)/2]
		}
	}
	consider := func(crop string, a, b []float64) {
		if t := Welch(a, b); math.Abs(t) > math.Abs(r.T) || r.Crop == "" {
			r.T, r.Crop = t, crop
		}
	}
	consider("none", times[0], times[1])
	for k := range crops {
		share := 1 - math.Pow(0.5, 10*float64(k+1)/crops)
		limit := all[min(int(share*float64(len(all))), len(all)-1)]
		a, b := below(times[0], limit), below(times[1], limit)
		if min(len(a), len(b)) >= 16 {
			consider(fmt.Sprintf("%.1f %%", 100*share), a, b)
		}
	}
	// Second order: the spread around each class's own mean.
	limit := all[len(all)*9/10]
	consider("spread", spread(below(times[0], limit)), spread(below(times[1], limit)))
	return r
}

func below(x []float64, limit float64) []float64 {
	var out []float64
	for _, v := range x {
		if v <= limit {
			out = append(out, v)
		}
	}
	return out
}

func spread(x []float64) []float64 {
	m, _ := moments(x)
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = (v - m) * (v - m)
	}
	return out
}

// moments are the mean and the unbiased variance.
func moments(x []float64) (mean, variance float64) {
	for _, v := range x {
		mean += v
	}
	mean /= max(1, float64(len(x)))
	for _, v := range x {
		variance += (v - mean) * (v - mean)
	}
	return mean, variance / max(1, float64(len(x)-1))
}

// Welch is Welch's t of two samples; 0 where there are too few of them, and
// an infinity where both are constant and differ.
func Welch(a, b []float64) float64 {
	if min(len(a), len(b)) < 2 {
		return 0
	}
	ma, va := moments(a)
	mb, vb := moments(b)
	if ma == mb {
		return 0
	}
	return (ma - mb) / math.Sqrt(va/float64(len(a))+vb/float64(len(b)))
}

// Run measures cases one after the other and returns them as a table.
func Run(n int, cases []Case) ([]Result, string) {
	var out []Result
	var b strings.Builder
	fmt.Fprintf(&b, "  %-44s %12s %12s %12s %8s %-8s %s\n", "what", "measurements", "fixed ns", "random ns", "|t|", "crop", "verdict")
	for i, c := range cases {
		r := Measure(c, n, Clock, rand.New(rand.NewPCG(uint64(i), uint64(n))))
		out = append(out, r)
		fmt.Fprintf(&b, "  %-44s %12d %12.0f %12.0f %8.2f %-8s %s\n", r.Name, r.Measurements, r.Medians[0], r.Medians[1], math.Abs(r.T), r.Crop, r.Verdict())
	}
	return out, b.String()
}
