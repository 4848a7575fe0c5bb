package privacy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"io"
	"math"
	"testing"
)

// stream is a reader of AES in counter mode: fixed, so that a test that passes
// always passes.
func stream(key byte) io.Reader {
	block, err := aes.NewCipher(bytes.Repeat([]byte{key}, 16))
	if err != nil {
		panic(err)
	}
	return cipher.StreamReader{S: cipher.NewCTR(block, make([]byte, 16)), R: zeros{}}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type ones struct{}

func (ones) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 0xff
	}
	return len(p), nil
}

// density is that of the discrete Gaussian of the given variance on
// [-limit, limit], which holds all but 2^-100 of it.
func density(variance float64) (p []float64, limit int) {
	limit = int(12*math.Sqrt(variance)) + 4
	p = make([]float64, 2*limit+1)
	sum := 0.0
	for i := range p {
		x := float64(i - limit)
		p[i] = math.Exp(-x * x / (2 * variance))
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p, limit
}

// fit is how many standard deviations Pearson's χ² of counts lies above its
// expectation (Wilson and Hilferty's approximation). Neighbouring cells are
// taken together until a hundred samples are expected.
func fit(counts []int64, density []float64) float64 {
	n, chi, df := 0.0, 0.0, -1.0
	for _, c := range counts {
		n += float64(c)
	}
	seen, expected := 0.0, 0.0
	for i, p := range density {
		seen, expected = seen+float64(counts[i]), expected+n*p
		rest := 0.0
		if expected >= 100 {
			for _, q := range density[i+1:] {
				if rest += n * q; rest >= 100 {
					break
				}
			}
		}
		if expected >= 100 && rest >= 100 || i == len(density)-1 {
			chi += (seen - expected) * (seen - expected) / expected
			df++
			seen, expected = 0, 0
		}
	}
	return (math.Cbrt(chi/df) - 1 + 2/(9*df)) / math.Sqrt(2/(9*df))
}

// samples is how many are looked at; a statistic beyond six standard
// deviations has probability 2·10^-9.
const samples, unlikely = 1 << 20, 6

func TestSamplesFitTheDiscreteGaussian(t *testing.T) {
	for k, variance := range []uint64{1, 2, 16, 50, 4999, 1 << 20} {
		t.Run(fmt.Sprintf("variance=%d", variance), func(t *testing.T) {
			exact, limit := density(float64(variance))
			got := make([]int64, samples)
			if err := NewGaussian(variance, stream(byte(k))).Fill(got); err != nil {
				t.Fatal(err)
			}
			counts := make([]int64, len(exact))
			second, fourth, sum, squares, cross := 0.0, 0.0, 0.0, 0.0, 0.0
			for i, p := range exact {
				x := float64(i - limit)
				second, fourth = second+p*x*x, fourth+p*x*x*x*x
			}
			for i, x := range got {
				counts[int(x)+limit]++
				sum, squares = sum+float64(x), squares+float64(x)*float64(x)
				if i > 0 {
					cross += float64(x) * float64(got[i-1])
				}
			}
			for name, z := range map[string]float64{
				"χ²":          fit(counts, exact),
				"mean":        sum / math.Sqrt(samples*second),
				"variance":    (squares - samples*second) / math.Sqrt(samples*(fourth-second*second)),
				"correlation": cross / (second * math.Sqrt(samples)),
			} {
				if math.Abs(z) > unlikely && !(name == "χ²" && z < 0) {
					t.Errorf("%s is %.1f standard deviations from what it should be", name, z)
				}
			}
		})
	}
}

// TestAWrongVarianceIsSeen: the fit notices one that is 4 % off.
func TestAWrongVarianceIsSeen(t *testing.T) {
	exact, limit := density(4999)
	got := make([]int64, samples)
	if err := NewGaussian(5199, stream(9)).Fill(got); err != nil {
		t.Fatal(err)
	}
	counts := make([]int64, len(exact))
	for _, x := range got {
		counts[int(x)+limit]++
	}
	if z := fit(counts, exact); z < unlikely {
		t.Fatalf("a variance 4 %% too large lies %.1f standard deviations off", z)
	}
}

// TestAcceptanceIsAProbability: the envelope lies above the density.
func TestAcceptanceIsAProbability(t *testing.T) {
	for _, variance := range []uint64{1, 2, 3, 16, 17, 1000, 1<<20 + 7, 1<<46 - 1} {
		g := NewGaussian(variance, zeros{})
		for v := range uint64(40) {
			for _, x := range []uint64{g.t * v, g.t*v + 1, g.t*(v+1) - 1} {
				if p := float64(v)*math.Ln2 - float64(x)*float64(x)/g.twice; p > 0 {
					t.Fatalf("variance %d: %d is accepted with probability exp(%g)", variance, x, p)
				}
			}
		}
	}
}

func TestExponentialIsThatOfTheLibrary(t *testing.T) {
	for _, variance := range []uint64{1, 16, 5001, 1<<46 - 1} {
		g := NewGaussian(variance, zeros{})
		for v := range uint64(12) {
			for _, x := range []uint64{g.t * v, g.t*v + g.t/3, g.t*(v+1) - 1} {
				exact, _ := exponential(bigOf(x*x), bigOf(2*variance), 80).Float64()
				if got := math.Exp(-float64(x*x) / g.twice); math.Abs(got-exact) > 0x1p-44*exact {
					t.Fatalf("exp(-%d²/%d): %g, want %g", x, 2*variance, got, exact)
				}
			}
		}
	}
}

// TestDecisionsBelowTheBitsOfAFloat: where the first 53 bits of the uniform
// number are those of the probability, the bits that follow decide.
func TestDecisionsBelowTheBitsOfAFloat(t *testing.T) {
	for _, variance := range []uint64{1, 16, 5001} {
		for v := range uint64(4) {
			g := NewGaussian(variance, zeros{})
			x := g.t*v + 1
			p := exponential(bigOf(x*x), bigOf(2*variance), 80)
			first, _ := p.SetMantExp(p, 53+int(v)).Uint64()
			for _, c := range []struct {
				first uint64
				rest  io.Reader
				want  bool
			}{
				{first / 2, ones{}, true}, {first - 1, ones{}, true}, {first, zeros{}, true},
				{first, ones{}, false}, {first + 1, zeros{}, false}, {first + first/2, zeros{}, false},
			} {
				if got := decide(x, v, variance, c.first, &words{from: c.rest}); got != c.want {
					t.Errorf("variance %d, %d, %d of %d, %T: %v", variance, x, c.first, first, c.rest, got)
				}
				g.words = words{from: c.rest}
				if got := g.accept(x, v, c.first); got != c.want {
					t.Errorf("variance %d, %d, %d of %d, %T: accept says %v", variance, x, c.first, first, c.rest, got)
				}
			}
		}
	}
}

// TestRareEvents: long runs of zeros in the stream, and readers that end.
func TestRareEvents(t *testing.T) {
	g := NewGaussian(16, io.LimitReader(zeros{}, 1<<16))
	if err := g.Fill(make([]int64, 1<<16)); err == nil {
		t.Fatal("a reader that ended gave noise")
	}
	// A far candidate is decided in integers, and refused.
	if g := NewGaussian(16, stream(1)); g.accept(g.t*40, 40, 1) {
		t.Fatal("40 widths were accepted")
	}
	if g := NewGaussian(16, stream(1)); !g.accept(g.t*5, 5, 0) {
		t.Fatal("a number of which 53 bits are zero is not below a probability of 2^-30")
	}
}

func BenchmarkGaussian(b *testing.B) {
	for _, variance := range []uint64{16, 1 << 22, 1 << 40} {
		b.Run(fmt.Sprintf("variance=%d", variance), func(b *testing.B) {
			g, dst := NewGaussian(variance, systemReader), make([]int64, block)
			for b.Loop() {
				if err := g.Fill(dst); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*block/b.Elapsed().Seconds()/1e6, "Mvalues/s")
		})
	}
}
