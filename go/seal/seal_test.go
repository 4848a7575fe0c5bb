package seal_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/tag"
)

func seed(n uint64) (s ckks.Seed) {
	rng := rand.New(rand.NewPCG(n, 99))
	for i := range s {
		s[i] = byte(rng.Uint32())
	}
	return s
}

func secretsOf(client int) seal.Secrets {
	return seal.Secrets{Key: seed(uint64(2 * client)), Noise: seed(uint64(2*client + 1))}
}

// choice is a scheme that exists for the preset, or nil.
func choice(preset string, mode params.Mode, bits, clients, weight int, rounding params.Rounding) *params.Scheme {
	s, err := params.NewScheme(params.Choice{Preset: preset, Mode: mode, Bits: bits, Clients: clients, Weight: weight, Rounding: rounding})
	if err != nil {
		return nil
	}
	return s
}

// roundOf is a round of two tensors, and the secret key in shared-key.
func roundOf(t testing.TB, s *params.Scheme, counts [2]int64, cap uint32) (seal.Round, []int32) {
	t.Helper()
	r := seal.Round{
		Scheme: s, SpecDigest: [32]byte{1, 2, 3, byte(s.ID), byte(s.Mode)}, Metrics: []string{"loss", "accuracy"}, Tag: &tag.Key{8, byte(s.Mode)}, WeightCap: cap, Nonce: [32]byte{4, 5, 6},
		Tensors: []seal.Tensor{{Name: "weight", Count: counts[0], Range: 0.5}, {Name: "bias", Count: counts[1], Range: 2}},
	}
	var secret []int32
	if s.Mode == params.SharedKey {
		var err error
		if secret, r.PublicKey, err = ckks.GenerateKeyPair(s.Preset, r.Nonce, seed(1000)); err != nil {
			t.Fatal(err)
		}
	}
	return r, secret
}

// contribution seals an update and returns its frames.
func contribution(t testing.TB, s *seal.Sealer) [][]byte {
	t.Helper()
	var frames [][]byte
	err := s.Seal(t.Context(), 0, s.Frames(), func(_ int, f []byte) error {
		frames = append(frames, bytes.Clone(f))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return frames
}

// cohort is a whole round: updates, their weights, frames and release.
type cohort struct {
	round   seal.Round
	secret  []int32
	updates [][]float32
	weights []uint32
	frames  [][][]byte // by client
}

func (c *cohort) seal(t testing.TB, threads int) {
	t.Helper()
	for i, x := range c.updates {
		s, err := seal.NewSealer(c.round, secretsOf(i), x, c.numExamples(i), threads, seal.From(clientName(i)), seal.WithMetrics(c.metrics(i)))
		if err != nil {
			t.Fatal(err)
		}
		c.frames = append(c.frames, contribution(t, s))
	}
}

func clientName(i int) string { return fmt.Sprintf("client-%d", i) }

// metrics of a client: every other one says how accurate it is.
func (c *cohort) metrics(i int) map[string]float64 {
	m := map[string]float64{"loss": 2.5 / float64(i+1)}
	if i%2 == 0 {
		m["accuracy"] = 0.75 + float64(i)/100
	}
	return m
}

// metric is the mean of a metric over those who gave it.
func (c *cohort) metric(name string) float64 {
	sum, weights := 0.0, 0.0
	for i, w := range c.weights {
		if v, ok := c.metrics(i)[name]; ok {
			sum, weights = sum+float64(w)*v, weights+float64(w)
		}
	}
	return sum / weights
}

// numExamples is what the client is told; in shared-key the weight is public.
func (c *cohort) numExamples(i int) uint32 {
	if c.round.Scheme.Mode == params.SharedKey {
		return 1
	}
	return c.weights[i]
}

// publicWeight is the aggregator's.
func (c *cohort) publicWeight(i int) uint32 {
	if c.round.Scheme.Mode == params.SharedKey {
		return c.weights[i]
	}
	return 1
}

func (c *cohort) fold(t testing.TB) [][]byte {
	t.Helper()
	g := c.round.Geometry()
	acc := fold.New(c.round.Scheme.Preset)
	result := make([][]byte, g.Frames())
	for k := range result {
		acc.Reset(g.Header(k))
		for i := range c.frames {
			if err := acc.Add(c.frames[i][k], c.publicWeight(i)); err != nil {
				t.Fatal(err)
			}
		}
		result[k] = acc.Append(nil)
	}
	return result
}

func (c *cohort) release(t testing.TB) seal.Release {
	t.Helper()
	rel := seal.Release{Terms: uint32(len(c.updates)), Secret: c.secret}
	seeds := make([]ckks.Seed, len(c.updates))
	for i := range c.updates {
		w := c.publicWeight(i)
		rel.WeightSum += w
		rel.Squares += uint64(w) * uint64(w)
		rel.Members = append(rel.Members, seal.Member{Client: clientName(i), Weight: w})
		seeds[i] = secretsOf(i).Key
	}
	if c.round.Scheme.Mode == params.SumKey {
		var err error
		if rel.Secret, err = ckks.SumSecrets(c.round.Scheme.Preset, c.round.SpecDigest, seeds); err != nil {
			t.Fatal(err)
		}
	}
	return rel
}

func (c *cohort) open(t testing.TB, result [][]byte, threads int) []float32 {
	t.Helper()
	o, err := seal.NewOpener(c.round, c.release(t), threads)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := o.OpenControl(result[len(result)-1])
	if err != nil {
		t.Fatal(err)
	}
	out := make([]float32, c.round.Values())
	if err := o.OpenRange(t.Context(), 0, result[:len(result)-1], out); err != nil {
		t.Fatal(err)
	}
	if err := o.Verify(); err != nil {
		t.Fatal(err)
	}
	if err := o.Finish(out); err != nil {
		t.Fatal(err)
	}
	metrics := o.Metrics(entries)
	for name, got := range metrics {
		if want := c.metric(name); math.Abs(got-want) > float64(c.round.WeightCap)*0x1p-22 {
			t.Fatalf("%s is %v, want %v", name, got, want)
		}
	}
	if len(metrics) != 2 {
		t.Fatalf("metrics %v", metrics)
	}
	return out
}

// reference is the weighted mean in float64, with values clipped to ranges in
// the way each mode clips them.
func (c *cohort) reference() (mean []float64, bound []float64) {
	total := 0.0
	for _, w := range c.weights {
		total += float64(w)
	}
	mean, bound = make([]float64, c.round.Values()), make([]float64, c.round.Values())
	v := 0
	for _, tensor := range c.round.Tensors {
		r := float64(tensor.Range)
		for range tensor.Count {
			for i, x := range c.updates {
				limit := r
				if c.round.Scheme.Mode == params.SumKey {
					limit = r * float64(c.round.WeightCap) / float64(c.weights[i])
				}
				mean[v] += float64(c.weights[i]) / total * max(min(float64(x[v]), limit), -limit)
			}
			step := r / float64(c.round.Scheme.Half())
			if c.round.Scheme.Rounding == params.NearestEven {
				step /= 2
			}
			if tensor.Precise {
				step = r * 0x1p-44
			}
			if c.round.Scheme.Mode == params.SumKey {
				step *= float64(len(c.updates)) * float64(c.round.WeightCap) / total
			}
			// Output rounding to float32, and what float64 loses on the way.
			bound[v] = step*(1+1e-9) + math.Abs(mean[v])*0x1p-23 + 0x1p-149
			v++
		}
	}
	return mean, bound
}

func (c *cohort) compare(t testing.TB, got []float32) {
	t.Helper()
	mean, bound := c.reference()
	for v := range mean {
		if d := math.Abs(float64(got[v]) - mean[v]); !(d <= bound[v]) {
			t.Fatalf("value %d: the mean differs from float64 by %g, the bound is %g", v, d, bound[v])
		}
	}
}

func gaussianUpdate(rng *rand.Rand, n int64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * 0.2)
	}
	return x
}

func TestSealFoldOpen(t *testing.T) {
	for _, p := range params.Presets() {
		for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
			weight := 1
			if mode == params.SharedKey {
				weight = 3
			}
			s := choice(p.Name, mode, 8, 5, weight, params.Stochastic)
			if s == nil {
				continue
			}
			t.Run(fmt.Sprintf("%s/%v", p.Name, mode), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(7, 7))
				c := &cohort{}
				c.round, c.secret = roundOf(t, s, [2]int64{int64(s.ChunkValues()) + 1234, 77}, 300)
				for i := range 5 {
					c.updates = append(c.updates, gaussianUpdate(rng, c.round.Values()))
					c.weights = append(c.weights, uint32(i%3+1))
				}
				c.seal(t, 2)
				result := c.fold(t)
				got := c.open(t, result, 2)
				c.compare(t, got)
				for k, v := range c.open(t, result, 1) {
					if math.Float32bits(v) != math.Float32bits(got[k]) {
						t.Fatalf("value %d depends on the number of threads", k)
					}
				}
			})
		}
	}
}

// TestSumsAboveSixtyFourBits: with public weights that sum to 2^18 the sums of
// tags and of metrics no longer fit a word.
func TestSumsAboveSixtyFourBits(t *testing.T) {
	const clients, weight = 1100, params.MaxWeight // 280,500
	s := choice("n4096-q102", params.SharedKey, 8, clients, weight, params.NearestEven)
	c := &cohort{}
	c.round, c.secret = roundOf(t, s, [2]int64{5, 2}, weight)
	for i := range clients {
		c.weights = append(c.weights, weight)
		c.updates = append(c.updates, []float32{0.25, -0.25, 0, 0.5, float32(i%2) / 2, 1, -1})
	}
	c.seal(t, 1)
	got := c.open(t, c.fold(t), 1)
	want, bound := c.reference()
	for i := range want {
		if math.Abs(float64(got[i])-want[i]) > bound[i] {
			t.Errorf("value %d is %v, want %v", i, got[i], want[i])
		}
	}
}
