package privacy

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"math/big"
	random "math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
)

var systemReader = rand.Reader

func bigOf(x uint64) *big.Int { return new(big.Int).SetUint64(x) }

func promise(t testing.TB, bits uint32, values int64, cohort uint32) Promise {
	t.Helper()
	p, err := Derive(Promise{Clip: 0.75, Multiplier: 1.1, Delta: 1e-5, Colluding: 1}, bits, values, cohort)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// updates are vectors that a clipping has to survive.
func updates(n int) map[string][]float32 {
	r := random.New(random.NewPCG(1, 2))
	out := map[string][]float32{
		"zero": make([]float32, n), "spike": make([]float32, n), "largest": make([]float32, n), "least": make([]float32, n),
		"even": make([]float32, n), "normal": make([]float32, n), "small": make([]float32, n), "heavy": make([]float32, n),
	}
	out["spike"][n/2] = -1e30
	for i := range n {
		out["largest"][i] = math.MaxFloat32
		out["least"][i] = math.SmallestNonzeroFloat32
		out["even"][i] = 0.03
		out["normal"][i] = float32(r.NormFloat64())
		out["small"][i] = float32(r.NormFloat64() * 1e-6)
		out["heavy"][i] = float32(math.Exp(8 * r.NormFloat64()))
	}
	return out
}

// TestNoUpdateExceedsTheBound is the sensitivity that the proof rests on: the
// integers that stand for any update have a norm within the bound, whatever
// the rounding.
func TestNoUpdateExceedsTheBound(t *testing.T) {
	for _, bits := range []uint32{8, 12, 16, 24} {
		for _, n := range []int{1, 37, 20000} {
			p, err := Derive(Promise{Clip: 0.75, Multiplier: 0.5, Delta: 1e-5}, bits, int64(n), 64)
			if err != nil {
				if bits == 8 && n == 20000 {
					continue // has no room, and says so
				}
				t.Fatal(err)
			}
			for name, u := range updates(n) {
				for rounding, from := range map[string]interface {
					Read([]byte) (int, error)
				}{"down": zeros{}, "up": ones{}, "random": stream(3)} {
					t.Run(fmt.Sprintf("bits=%d/n=%d/%s/%s", bits, n, name, rounding), func(t *testing.T) {
						norm := math.Sqrt(squares(u, 1))
						scale := float64(halfOf(bits)) / float64(p.Range(bits))
						if norm*scale > float64(p.Steps)*shy {
							scale = float64(p.Steps) * shy / norm
						}
						out := make([]float32, n)
						if err := p.round(out, u, scale, 2, from); err != nil {
							t.Fatal(err)
						}
						sum := new(big.Int)
						for i, y := range out {
							if float64(y) != math.Trunc(float64(y)) || math.Abs(float64(y)-float64(u[i])*scale) > 1 {
								t.Fatalf("value %d: %g became %g steps", i, float64(u[i])*scale, y)
							}
							v := big.NewInt(int64(y))
							sum.Add(sum, v.Mul(v, v))
						}
						if sum.Cmp(bigOf(p.Bound)) > 0 {
							t.Fatalf("squares of %s, bound %d", sum, p.Bound)
						}
					})
				}
			}
		}
	}
}

// TestRoundingFallsBackTowardsZero: rounding everything up exceeds the bound,
// and is not what is sent.
func TestRoundingFallsBackTowardsZero(t *testing.T) {
	const n = 20000
	p := promise(t, 12, n, 10)
	u := updates(n)["even"]
	scale := float64(p.Steps) * shy / math.Sqrt(squares(u, 1))
	out := make([]float32, n)
	if err := p.round(out, u, scale, 1, ones{}); err != nil {
		t.Fatal(err)
	}
	for i, y := range out {
		if float64(y) != math.Trunc(float64(u[i])*scale) {
			t.Fatalf("value %d: %g steps became %g", i, float64(u[i])*scale, y)
		}
	}
}

// TestClippingKeepsDirectionAndNorm, and an update within the norm as it is.
func TestClippingKeepsDirectionAndNorm(t *testing.T) {
	const n = 30000
	p := promise(t, 20, n, 3)
	for name, factor := range map[string]float64{"within": 0.5, "beyond": 40} {
		t.Run(name, func(t *testing.T) {
			u := updates(n)["normal"]
			norm := math.Sqrt(squares(u, 1))
			want := math.Min(factor, 1) * p.Clip
			for i := range u {
				u[i] *= float32(factor * p.Clip / norm)
			}
			out, err := p.apply(u, 20, 1, stream(5))
			if err != nil {
				t.Fatal(err)
			}
			// The noised update's product with the direction has the clipped
			// norm as its mean and one value's noise as its deviation.
			dot := 0.0
			for i := range out {
				dot += float64(out[i]) * float64(u[i]) / (factor * p.Clip)
			}
			deviation := p.Noise(1) + p.Clip/float64(p.Steps)
			if math.Abs(dot-want) > unlikely*deviation {
				t.Fatalf("a norm of %g became %g ± %g", want, dot, deviation)
			}
		})
	}
}

// TestWhatIsSentIsIntegersWithNoise: multiples of the step, within the range,
// with the noise's variance, never twice the same.
func TestWhatIsSentIsIntegersWithNoise(t *testing.T) {
	const n = 50000
	p := promise(t, 16, n, 3)
	half := float64(halfOf(16))
	a, err := p.Apply(make([]float32, n), 16, 3)
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Apply(make([]float32, n), 16, 1)
	if err != nil {
		t.Fatal(err)
	}
	same, squares := 0, 0.0
	for i, x := range a {
		steps := float64(x) / float64(p.Range(16)) * half
		if math.Abs(steps-math.Round(steps)) > 1e-3 || math.Abs(steps) > half+1e-3 {
			t.Fatalf("value %d is %g steps", i, steps)
		}
		squares += math.Round(steps) * math.Round(steps)
		if x == b[i] && x != 0 {
			same++
		}
	}
	if z := (squares/float64(p.Variance)/n - 1) / math.Sqrt(2.0/n); math.Abs(z) > unlikely {
		t.Fatalf("a variance %.1f standard deviations from %d", z, p.Variance)
	}
	if same > n/20 {
		t.Fatalf("%d of %d values came twice", same, n)
	}
}

func TestApplyRefusesWhatIsNotFinite(t *testing.T) {
	p := promise(t, 16, 10, 3)
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		u := make([]float32, 10)
		u[7] = float32(bad)
		if _, err := p.Apply(u, 16, 1); !errors.Is(err, errs.ErrNotFinite) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// TestPromisesAreKeptOrRefused: what Derive gives passes Check, and no integer
// of it can be made worse.
func TestPromisesAreKeptOrRefused(t *testing.T) {
	for _, bits := range []uint32{8, 12, 16, 20, 24} {
		for _, values := range []int64{1, 1000, 25e6, 1 << 36} {
			for _, cohort := range []uint32{2, 3, 100, 4096} {
				for _, z := range []float64{0.01, 0.7, 1.1, 20} {
					p, err := Derive(Promise{Clip: 3, Multiplier: z, Delta: 1e-6, Colluding: 1}, bits, values, cohort)
					name := fmt.Sprintf("bits=%d/values=%d/cohort=%d/z=%g", bits, values, cohort, z)
					if errors.Is(err, errs.ErrParameters) {
						continue
					}
					if err != nil {
						t.Fatal(name, err)
					}
					r := p.Range(bits)
					if err := p.Check(bits, cohort, r); err != nil {
						t.Fatal(name, err)
					}
					if p.Bound < uint64(p.Steps)*uint64(p.Steps) || p.Inflation() < 1 {
						t.Fatal(name, p)
					}
					if d := p.Distance(1<<36, 1<<20, cohort); d > -150 {
						t.Fatalf("%s: 2^%g from a discrete Gaussian", name, d)
					}
					if q := p.with(p.Steps+1, values, cohort); q.fits(halfOf(bits)) {
						t.Fatal(name, "a finer step would fit")
					}
					for what, worse := range map[string]func(*Promise){
						"variance":   func(p *Promise) { p.Variance = min(p.Variance-1, uint64(z*z*float64(p.Bound)/float64(cohort)*0.999)) },
						"bound":      func(p *Promise) { p.Bound = uint64(p.Steps) * uint64(p.Steps) },
						"steps":      func(p *Promise) { p.Steps = 0 },
						"more steps": func(p *Promise) { p.Steps *= 2 },
						"multiplier": func(p *Promise) { p.Multiplier = max(p.Multiplier, 4) * 3 },
						"colluding":  func(p *Promise) { p.Colluding = cohort },
						"clip":       func(p *Promise) { p.Clip *= 1.01 },
					} {
						q := p
						worse(&q)
						if err := q.Check(bits, cohort, r); err == nil {
							t.Errorf("%s: %s is accepted", name, what)
						}
					}
				}
			}
		}
	}
}

func TestPromisesOutsideTheirLimits(t *testing.T) {
	good := Promise{Clip: 1, Multiplier: 1, Delta: 1e-5, Colluding: 1}
	for name, change := range map[string]func(*Promise){
		"no clip": func(p *Promise) { p.Clip = 0 }, "clip NaN": func(p *Promise) { p.Clip = math.NaN() }, "clip infinite": func(p *Promise) { p.Clip = math.Inf(1) },
		"no noise": func(p *Promise) { p.Multiplier = 0 }, "negative": func(p *Promise) { p.Multiplier = -1 }, "noise NaN": func(p *Promise) { p.Multiplier = math.NaN() },
		"no delta": func(p *Promise) { p.Delta = 0 }, "delta 1": func(p *Promise) { p.Delta = 1 }, "all collude": func(p *Promise) { p.Colluding = 3 },
	} {
		p := good
		change(&p)
		if _, err := Derive(p, 16, 1000, 3); !errors.Is(err, errs.ErrArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Derive(good, 25, 1000, 3); !errors.Is(err, errs.ErrArgument) {
		t.Errorf("25 bits: %v", err)
	}
	if _, err := Derive(good, 8, 25e6, 3); !errors.Is(err, errs.ErrParameters) {
		t.Errorf("no room: %v", err)
	}
}

func BenchmarkApply(b *testing.B) {
	const n = 1 << 20
	p := promise(b, 16, n, 3)
	u := updates(n)["normal"]
	for b.Loop() {
		if _, err := p.Apply(u, 16, 1); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds()/1e6, "Mvalues/s")
}
