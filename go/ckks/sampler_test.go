package ckks

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/params"
)

// density is ρ(k) = exp(−k²/2σ²) in 256-bit floats, by the Taylor series of
// exp(1/2σ²) and repeated products.
func density(k int) *big.Float {
	float := func() *big.Float { return new(big.Float).SetPrec(256) }
	sigma, _ := float().SetString("4.53")
	x := float().Quo(big.NewFloat(0.5), float().Mul(sigma, sigma))
	base, term := float().SetInt64(1), float().SetInt64(1)
	for i := int64(1); i < 60; i++ {
		term = float().Quo(float().Mul(term, x), float().SetInt64(i))
		base.Add(base, term)
	}
	out := float().SetInt64(1)
	for range k * k {
		out.Quo(out, base)
	}
	return out
}

func TestThresholdsAreTheDistributions(t *testing.T) {
	rho := make([]*big.Float, largest+1)
	total := new(big.Float).SetPrec(256)
	for k := range rho {
		rho[k] = density(k)
		if k > 0 {
			rho[k].Add(rho[k], rho[k]) // both signs
		}
		total.Add(total, rho[k])
	}
	sum := new(big.Float).SetPrec(256)
	for k, want := range thresholds {
		sum.Add(sum, rho[k])
		v := new(big.Float).SetPrec(256).Quo(sum, total)
		v.SetMantExp(v, 63)
		got, _ := v.Int(nil)
		if !got.IsUint64() || got.Uint64() != want {
			t.Errorf("T_%d is %#x, the distribution says %#x", k, want, got)
		}
	}
	if params.Sigma != 4.53 {
		t.Errorf("the table is for 4.53, params says %v", params.Sigma)
	}
}

// TestSamplerSelectsByThreshold checks both sides of every threshold.
func TestSamplerSelectsByThreshold(t *testing.T) {
	for k, threshold := range thresholds {
		for _, c := range []struct {
			word uint64
			want int32
		}{
			{threshold - 1, int32(k)}, {threshold, int32(k + 1)},
			{1<<63 | (threshold - 1), -int32(k)}, {1<<63 | threshold, -int32(k + 1)},
		} {
			var out [1]int32
			gaussian(out[:], binary.LittleEndian.AppendUint64(nil, c.word))
			if out[0] != c.want {
				t.Errorf("word %#x gives %d, want %d", c.word, out[0], c.want)
			}
		}
	}
	var out [2]int32
	gaussian(out[:], append(bytes.Repeat([]byte{0xff}, 8), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f))
	if out != [2]int32{-int32(largest), int32(largest)} {
		t.Errorf("the largest words give %v", out)
	}
}

// TestSamplerFitsTheDistribution: Pearson's χ² over 10^6 samples of one fixed
// key. Bins are −17…17 and the two tails, 36 degrees of freedom; a correct
// sampler exceeds 102 for a fraction 10^-7 of keys.
func TestSamplerFitsTheDistribution(t *testing.T) {
	const samples, edge, limit = 1_000_000, 18, 102.0
	key := Seed{42}
	stream, err := newKeystream(key[:])
	if err != nil {
		t.Fatal(err)
	}
	out := make([]int32, samples)
	gaussian(out, stream.fill(make([]byte, 8*samples+tail), 8*samples, 0, 0, purposeSecret))
	var counts, expected [2*edge + 1]float64
	pairs := 0.0
	for i, v := range out {
		counts[min(max(v, -edge), edge)+edge]++
		if i > 0 {
			pairs += float64(v) * float64(out[i-1])
		}
	}
	total := 0.0
	for k := -largest; k <= largest; k++ {
		total += math.Exp(-float64(k*k) / (2 * params.Sigma * params.Sigma))
	}
	for k := -largest; k <= largest; k++ {
		expected[min(max(k, -edge), edge)+edge] += samples * math.Exp(-float64(k*k)/(2*params.Sigma*params.Sigma)) / total
	}
	chi := 0.0
	for k := range counts {
		d := counts[k] - expected[k]
		chi += d * d / expected[k]
	}
	if chi > limit {
		t.Errorf("χ² is %.1f over 36 degrees of freedom, the limit is %v", chi, limit)
	}
	// Neighbours are independent: their correlation has standard deviation
	// 10^-3, and exceeds 6 of those with probability 2·10^-9.
	if r := pairs / (samples * params.Sigma * params.Sigma); math.Abs(r) > 6e-3 {
		t.Errorf("neighbouring samples correlate by %v", r)
	}
}

// TestKeystreamIsCounterMode compares with the standard library's stream.
func TestKeystreamIsCounterMode(t *testing.T) {
	for _, size := range []int{16, 32} {
		key := bytes.Repeat([]byte{5}, size)
		k, err := newKeystream(key)
		if err != nil {
			t.Fatal(err)
		}
		got := k.fill(make([]byte, 1000+tail), 1000, 7, 8, 9)
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		var iv []byte
		for _, v := range []uint32{7, 8, 9} {
			iv = binary.LittleEndian.AppendUint32(iv, v)
		}
		want := make([]byte, 1000)
		cipher.NewCTR(block, binary.BigEndian.AppendUint32(iv, 2)).XORKeyStream(want, want)
		if !bytes.Equal(got, want) {
			t.Errorf("%d-byte key: the keystream is not AES-CTR", size)
		}
	}
}

// TestExpanderSkipsWords lets a quarter of the words be rejected, which with
// the presets' primes happens once in 2^20 polynomials.
func TestExpanderSkipsWords(t *testing.T) {
	const n, width = 2048, 51
	q := uint64(3) << (width - 2)
	x, err := newExpander(&testDigest, n)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]uint64, n)
	x.expand(got, 4, 1, q, width)
	stream := x.stream.fill(make([]byte, 16*n+tail), 16*n, 4, 1, purposeA)
	skipped := 0
	for i, at := 0, 0; i < n; at++ {
		v := binary.LittleEndian.Uint64(stream[8*at:]) & (1<<width - 1)
		if v >= q {
			skipped++
			continue
		}
		if got[i] != v {
			t.Fatalf("coefficient %d: %d, want %d", i, got[i], v)
		}
		i++
	}
	if skipped < n/5 {
		t.Fatalf("only %d words were skipped", skipped)
	}
	// multiply takes the same way.
	c, err := contextOf(params.Presets()[1])
	if err != nil {
		t.Fatal(err)
	}
	f := c.fields[0]
	rng := rand.New(rand.NewPCG(1, 3))
	s, want := make([]uint64, n), make([]uint64, n)
	for i := range s {
		s[i] = rng.Uint64N(f.q)
	}
	x.expand(want, 4, 0, f.q, width)
	f.product(want, want, s)
	x.multiply(got, &factor{montgomery: s}, 4, 0, &f, width)
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("product %d differs", i)
		}
	}
}
