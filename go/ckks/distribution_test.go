package ckks

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/kernel"
	"github.com/cryptflow/cryptflow/go/params"
)

// measured is how many samples of each stream are looked at: 2^20, or
// CRYPTFLOW_SAMPLES (make samplers).
func measured(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CRYPTFLOW_SAMPLES")
	if text == "" {
		return 1 << 20
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1<<16 {
		t.Fatalf("CRYPTFLOW_SAMPLES is %q, want a number of at least %d", text, 1<<16)
	}
	return n
}

// unlikely bounds how improbable a result may be before a test fails: a
// correct sampler fails a statistic for a fraction 2·10^-9 of keys. Keys are
// fixed, so that a run that passes always passes.
const unlikely = 1e-9

// upperTail is P(χ² ≥ x) with the given degrees of freedom: the regularised
// incomplete gamma function Q(df/2, x/2), by its series or its continued
// fraction (Numerical Recipes, §6.2).
func upperTail(x float64, df int) float64 {
	a, z := float64(df)/2, x/2
	if z <= 0 {
		return 1
	}
	log, _ := math.Lgamma(a)
	front := math.Exp(a*math.Log(z) - z - log)
	if z < a+1 {
		sum, term := 1/a, 1/a
		for k := 1; k < 100000 && term > sum*1e-16; k++ {
			term *= z / (a + float64(k))
			sum += term
		}
		return 1 - front*sum
	}
	b := z + 1 - a
	c, d := math.Inf(1), 1/b
	h := d
	for k := 1; k < 100000; k++ {
		n := -float64(k) * (float64(k) - a)
		b += 2
		d = 1 / (n*d + b)
		c = b + n/c
		h *= d * c
		if math.Abs(d*c-1) < 1e-15 {
			break
		}
	}
	return front * h
}

func TestUpperTailOfChiSquare(t *testing.T) {
	for _, c := range []struct {
		x    float64
		df   int
		want float64
	}{
		// Two degrees of freedom: exp(−x/2). Others: published tables.
		{2, 2, math.Exp(-1)}, {40, 2, math.Exp(-20)}, {3.841459, 1, 0.05}, {18.307038, 10, 0.05}, {124.342113, 100, 0.05}, {77.929465, 100, 0.95}, {149.449253, 100, 0.001},
	} {
		if got := upperTail(c.x, c.df); math.Abs(got-c.want) > 1e-6*c.want+1e-15 {
			t.Errorf("P(χ² ≥ %v), %d degrees of freedom: %v, want %v", c.x, c.df, got, c.want)
		}
	}
}

// lags at which neighbours are compared: those of a vector register's lanes,
// of an AES block, and of a polynomial.
var lags = []int{1, 2, 3, 4, 8, 16, 4096}

// tally is what is counted of one stream of samples.
type tally struct {
	probability []float64 // of each cell
	group       []int     // of each cell, for pairs
	pairCells   int

	n      int
	counts []int64
	pairs  []int64 // of neighbours that do not overlap, by group
	cross  []float64
	past   []float64 // ring of the largest lag
	cells  []int
	sum    float64
	square float64
	mean   float64 // of the exact distribution
	width  float64
}

// newTally counts cells of the given probabilities, and pairs of neighbours in
// so many groups of cells of about the same probability.
func newTally(probability []float64, groups int, mean, width float64) *tally {
	x := &tally{
		probability: probability, group: make([]int, len(probability)), counts: make([]int64, len(probability)),
		cross: make([]float64, len(lags)), past: make([]float64, lags[len(lags)-1]), mean: mean, width: width,
	}
	total := 0.0
	for i, p := range probability {
		x.group[i] = min(int((total+p/2)*float64(groups)), groups-1)
		total += p
	}
	x.pairCells = groups
	x.pairs = make([]int64, groups*groups)
	return x
}

// add takes one sample: the cell it falls in and its value.
func (x *tally) add(cell int, value float64) {
	x.counts[cell]++
	v := (value - x.mean) / x.width
	x.sum += v
	x.square += v * v
	size := len(x.past)
	for k, lag := range lags {
		x.cross[k] += v * x.past[(x.n+size-lag)%size] // zero before the start
	}
	x.past[x.n%size] = v
	x.cells = append(x.cells, x.group[cell])
	if len(x.cells) == 2 {
		x.pairs[x.cells[0]*x.pairCells+x.cells[1]]++
		x.cells = x.cells[:0]
	}
	x.n++
}

// fit is Pearson's χ² of counts against probabilities; cells that are expected
// fewer than ten times are taken together.
func fit(counts []int64, probability []float64) (chi float64, df int) {
	total, rest, restExpected := 0.0, 0.0, 0.0
	for _, c := range counts {
		total += float64(c)
	}
	df = -1
	term := func(got, want float64) {
		chi += (got - want) * (got - want) / want
		df++
	}
	for i, c := range counts {
		if want := total * probability[i]; want >= 10 {
			term(float64(c), want)
		} else {
			rest, restExpected = rest+float64(c), restExpected+want
		}
	}
	if restExpected > 0.1 { // below that the approximation is not one
		term(rest, restExpected)
	}
	return chi, df
}

// row is what is said of a stream.
type row struct {
	name   string
	result []string
	faults []string
}

func (x *tally) row(name string) row {
	r := row{name: name}
	check := func(what string, chi float64, df int) {
		p := upperTail(chi, df)
		r.result = append(r.result, fmt.Sprintf("χ² %s %9.1f / %5d  p = %.4f", what, chi, df, p))
		if p < unlikely || p > 1-unlikely {
			r.faults = append(r.faults, fmt.Sprintf("%s: χ² of %s is %.1f with %d degrees of freedom: p = %g", name, what, chi, df, p))
		}
	}
	chi, df := fit(x.counts, x.probability)
	check("values", chi, df)
	each := make([]float64, x.pairCells)
	for i, p := range x.probability {
		each[x.group[i]] += p
	}
	both := make([]float64, len(x.pairs))
	for i := range both {
		both[i] = each[i/x.pairCells] * each[i%x.pairCells]
	}
	chi, df = fit(x.pairs, both)
	check("pairs", chi, df)
	worst, at := 0.0, 0
	for k, c := range x.cross {
		if z := math.Abs(c) / math.Sqrt(float64(x.n)); z > worst {
			worst, at = z, lags[k]
		}
	}
	// z of each lag is standard normal: 6.5 has probability 8·10^-11.
	r.result = append(r.result, fmt.Sprintf("largest correlation %.1e at lag %d, %.2f sd", worst/math.Sqrt(float64(x.n)), at, worst))
	if worst > 6.5 {
		r.faults = append(r.faults, fmt.Sprintf("%s: samples %d apart correlate, by %.1f standard deviations", name, at, worst))
	}
	bias := x.sum / math.Sqrt(float64(x.n))
	r.result = append(r.result, fmt.Sprintf("mean %+.2f sd", bias))
	if math.Abs(bias) > 6.5 {
		r.faults = append(r.faults, fmt.Sprintf("%s: the mean is off by %.1f standard deviations", name, bias))
	}
	return r
}

func report(t *testing.T, n int, rows []row) {
	t.Helper()
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "  %-42s %s\n", r.name, strings.Join(r.result, "   "))
		for _, f := range r.faults {
			t.Error(f)
		}
	}
	t.Logf("%d samples of each stream, lags %v\n%s", n, lags, b.String())
}

// gaussianTally counts every value of the exact distribution.
func gaussianTally() *tally {
	probability := make([]float64, 2*largest+1)
	total, square := 0.0, 0.0
	for i := range probability {
		k := float64(i - largest)
		probability[i] = math.Exp(-k * k / (2 * params.Sigma * params.Sigma))
		total += probability[i]
	}
	for i := range probability {
		k := float64(i - largest)
		probability[i] /= total
		square += probability[i] * k * k
	}
	return newTally(probability, 13, 0, math.Sqrt(square))
}

// TestGaussianStreamsFitTheDistribution: every stream of secrets and errors, by
// the kernel and by the portable sampler: values, pairs and correlations
// against the exact distribution of width 4.53.
func TestGaussianStreamsFitTheDistribution(t *testing.T) {
	n := measured(t)
	p := params.Presets()[1]
	samplers := map[string]func([]int32, []byte){"portable": gaussianPlain}
	if kernel.Available {
		samplers["kernel"] = gaussian
	}
	streams := []struct {
		name    string
		key     func(k uint32) [32]byte
		purpose uint32
		chunked bool // the chunk tells streams apart, else the key does
	}{
		{"secret s", func(k uint32) [32]byte { return seeded(tagKey, k) }, purposeSecret, false},
		{"error e, e0", func(uint32) [32]byte { return seeded(tagNoise, 1) }, purposeError, true},
		{"error e1", func(uint32) [32]byte { return seeded(tagNoise, 2) }, purposeError1, true},
		{"ephemeral u", func(uint32) [32]byte { return seeded(tagNoise, 3) }, purposeEphemeral, true},
		{"error of a public key", func(k uint32) [32]byte { return seeded(tagKey, 1<<31|k) }, purposeKeyError, false},
	}
	var rows []row
	for _, path := range []string{"kernel", "portable"} {
		sample := samplers[path]
		if sample == nil {
			t.Log("this processor has no AVX2 with FMA: the portable sampler only")
			continue
		}
		for _, s := range streams {
			x := gaussianTally()
			out, buf := make([]int32, p.N()), make([]byte, 8*p.N()+tail)
			var stream *keystream
			for k := uint32(0); x.n < n; k++ {
				chunk := k
				if !s.chunked {
					chunk = 0
				}
				if stream == nil || !s.chunked {
					key := s.key(k)
					var err error
					if stream, err = newKeystream(key[:]); err != nil {
						t.Fatal(err)
					}
				}
				sample(out, stream.fill(buf, 8*p.N(), chunk, 0, s.purpose))
				for _, v := range out {
					x.add(int(v)+largest, float64(v))
				}
			}
			rows = append(rows, x.row(s.name+", "+path))
		}
	}
	report(t, n, rows)
}

// seeded is the key that seed number k expands to.
func seeded(tag string, k uint32) [32]byte {
	seed := Seed{0: 77}
	binary.LittleEndian.PutUint32(seed[1:], k)
	return derive(tag, seed[:], testDigest[:])
}

// TestUniformStreamsFitTheDistribution: the public polynomials modulo every
// prime, by their upper and by their lower bits, a prime of which a quarter of
// the words are skipped, and the words of stochastic rounding.
func TestUniformStreamsFitTheDistribution(t *testing.T) {
	n := measured(t)
	const cells, groups = 1 << 12, 16
	even := make([]float64, cells)
	for i := range even {
		even[i] = 1.0 / cells
	}
	newUniform := func() *tally { return newTally(even, groups, (cells-1)/2.0, math.Sqrt((cells*cells-1)/12.0)) }
	var rows []row
	field := func(name string, size int, j int, q uint64, width int) {
		x, err := newExpander(&testDigest, size)
		if err != nil {
			t.Fatal(err)
		}
		upper, lower := newUniform(), newUniform()
		a := make([]uint64, size)
		for chunk := uint32(0); upper.n < n; chunk++ {
			x.expand(a, chunk, j, q, width)
			for _, v := range a {
				if v >= q {
					t.Fatalf("%s: %d is not below %d", name, v, q)
				}
				// v·2^12/q: cells differ by at most q^-1 in probability.
				hi := int(float64(v) / float64(q) * cells)
				upper.add(min(hi, cells-1), float64(hi))
				low := int(v % cells)
				lower.add(low, float64(low))
			}
		}
		rows = append(rows, upper.row(name+", upper bits"), lower.row(name+", lower bits"))
	}
	for _, p := range params.Presets() {
		for j, q := range p.Primes {
			if os.Getenv("CRYPTFLOW_SAMPLES") == "" && j > 0 {
				break // the other primes differ by their index alone
			}
			field(fmt.Sprintf("a, %s, prime %d", p.Name, j), p.N(), j, q, p.Width)
		}
	}
	field("a, a prime of 3·2^49", 4096, 0, 3<<49, 51)
	s := schemeOf(t, "n4096-q102", params.SumKey)
	e, _ := encryptorOf(t, s)
	upper, lower := newUniform(), newUniform()
	for chunk := uint32(0); upper.n < n; chunk++ {
		words := e.Rounding(chunk, s.ChunkValues())
		for i := 0; i < len(words); i += 4 {
			w := binary.LittleEndian.Uint32(words[i:])
			upper.add(int(w>>20), float64(w>>20))
			lower.add(int(w%cells), float64(w%cells))
		}
	}
	rows = append(rows, upper.row("rounding words, upper bits"), lower.row("rounding words, lower bits"))
	report(t, n, rows)
}

// TestFlawsAreNoticed: the statistics see what they are meant to see.
func TestFlawsAreNoticed(t *testing.T) {
	stream, err := newKeystream(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	const n = 1 << 20
	good := make([]int32, n)
	gaussian(good, stream.fill(make([]byte, 8*n+tail), 8*n, 0, 0, purposeError))
	for name, flaw := range map[string]func(i int) int32{
		"":                           func(i int) int32 { return good[i] },
		"a 7 that is a 6 at times":   func(i int) int32 { return good[i] - int32(b2i(good[i] == 7 && i%16 == 0)) },
		"one in twenty off by one":   func(i int) int32 { return good[i] + int32(b2i(i%20 == 0)) },
		"neighbours that repeat":     func(i int) int32 { return good[i-i%64/63] },
		"polynomials that repeat":    func(i int) int32 { return good[max(0, i-4096*b2i(i%50 == 0 && i >= 4096))] },
		"a narrower distribution":    func(i int) int32 { return good[i] * int32(1-b2i(i%128 == 0)) },
		"neighbours of unlike signs": func(i int) int32 { return good[i] * int32(1-2*b2i(i%16 == 15 && good[i]*good[i-b2i(i > 0)] > 0)) },
	} {
		x := gaussianTally()
		for i := range n {
			v := flaw(i)
			x.add(int(v)+largest, float64(v))
		}
		if r := x.row(name); (name == "") != (len(r.faults) == 0) {
			t.Errorf("%q: %q, %q", name, r.result, r.faults)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
