package ckks

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

// cohort is clients whose contributions are added, and what opens their sum.
type cohort struct {
	*params.Scheme
	clients []*Encryptor
	weights []uint32
	secret  []int32
	squares uint64
}

// cohortOf draws a cohort with its largest public weights, which the seed
// number tells apart from others.
func cohortOf(t testing.TB, preset string, mode params.Mode, weights []uint32, number byte) *cohort {
	t.Helper()
	c := &cohort{weights: weights}
	weight := 1
	for i := range weights {
		if mode == params.SumKey {
			weights[i] = 1
		}
		weight = max(weight, int(weights[i]))
		c.squares += uint64(weights[i]) * uint64(weights[i])
	}
	var err error
	if c.Scheme, err = params.NewScheme(params.Choice{Preset: preset, Mode: mode, Bits: 8, Clients: len(weights), Weight: weight, Rounding: params.Stochastic}); err != nil {
		t.Fatal(err)
	}
	var seeds []Seed
	var publicKey []byte
	if mode == params.SharedKey {
		if c.secret, publicKey, err = GenerateKeyPair(c.Preset, testNonce, Seed{3, number}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range weights {
		key, noise := Seed{1, byte(i), number}, Seed{2, byte(i), number}
		seeds = append(seeds, key)
		var e *Encryptor
		if mode == params.SumKey {
			e, err = NewSumKeyEncryptor(c.Scheme, testDigest, key, noise, nil)
		} else {
			e, err = NewPublicKeyEncryptor(c.Scheme, testDigest, testNonce, publicKey, noise, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		c.clients = append(c.clients, e)
	}
	if mode == params.SumKey {
		if c.secret, err = SumSecrets(c.Preset, testDigest, seeds); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *cohort) decryptor(t testing.TB) *Decryptor {
	t.Helper()
	d, err := NewDecryptor(c.Scheme, testDigest, c.secret, uint32(len(c.clients)), c.squares, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// sum encrypts the same message under every key and adds.
func (c *cohort) sum(t testing.TB, acc *fold.Accumulator, chunk uint32, m [][]uint64) ([]byte, frame.Header) {
	t.Helper()
	h := wholeHeader(c.Scheme, 0)
	h.Chunk = chunk
	acc.Reset(h)
	b := make([]byte, h.Size())
	for i, e := range c.clients {
		if err := e.Encrypt(b, h, m); err != nil {
			t.Fatal(err)
		}
		if err := acc.Add(b, c.weights[i]); err != nil {
			t.Fatal(err)
		}
	}
	h.Terms, h.Weight = uint32(len(c.clients)), 0
	for _, w := range c.weights {
		h.Weight += w
	}
	return acc.Append(b[:0]), h
}

// noiseCoefficients are looked at for each preset and mode: 2^18, or
// CRYPTFLOW_NOISE (make noise).
func noiseCoefficients(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CRYPTFLOW_NOISE")
	if text == "" {
		return 1 << 18
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1<<14 {
		t.Fatalf("CRYPTFLOW_NOISE is %q, want a number of at least %d", text, 1<<14)
	}
	return n
}

// noise is what was seen of Σw·e.
type noise struct {
	n       int
	largest int64
	square  float64
	mean    float64
}

// TestNoiseStaysWithinItsBound measures Σw·e of sums of four clients, for each
// preset and mode. In sum-key its standard deviation is σ√n within what so
// many samples allow; in shared-key it depends on the key's norm, which
// [params.Preset.Spread] covers. A key pair is drawn anew 16 times. The
// probability that one of 2^24 coefficients exceeds its bound is 2^-96 and
// less.
func TestNoiseStaysWithinItsBound(t *testing.T) {
	wanted := noiseCoefficients(t)
	const keys = 16
	var table strings.Builder
	fmt.Fprintf(&table, "  %-12s %-11s %12s %8s %12s %14s %10s %14s\n", "preset", "mode", "coefficients", "max |Σe|", "measured std", "predicted std", "bound", "bound/measured")
	for _, p := range params.Presets() {
		for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
			chunks := max(1, wanted/keys/p.N())
			var mu sync.Mutex
			var all noise
			var bound uint64
			var predicted float64
			t.Run(fmt.Sprintf("%s/%v", p.Name, mode), func(t *testing.T) {
				for number := range byte(keys) {
					t.Run(fmt.Sprintf("key=%d", number), func(t *testing.T) {
						t.Parallel()
						c := cohortOf(t, p.Name, mode, []uint32{1, 2, 3, 5}, number)
						d, acc := c.decryptor(t), fold.New(c.Preset)
						zero, words := d.planes(), d.planes()
						var one noise
						for chunk := range uint32(chunks) {
							b, h := c.sum(t, acc, chunk, zero)
							if err := d.Decrypt(words, b, h); err != nil {
								t.Fatal(err)
							}
							// The message is zero: residues modulo the first
							// prime are the noise.
							for _, v := range d.sums[0] {
								e := centred(v, d.fields[0].q)
								one.largest = max(one.largest, e, -e)
								one.square += float64(e) * float64(e)
								one.mean += float64(e)
								one.n++
							}
						}
						mu.Lock()
						defer mu.Unlock()
						all.n, all.square, all.mean = all.n+one.n, all.square+one.square, all.mean+one.mean
						all.largest = max(all.largest, one.largest)
						bound = d.bound
						predicted = c.FreshSigma() * math.Sqrt(float64(c.squares))
						if mode == params.SharedKey {
							predicted /= c.Spread
						}
					})
				}
			})
			std := math.Sqrt(all.square / float64(all.n))
			fmt.Fprintf(&table, "  %-12s %-11v %12d %8d %12.3f %14.3f %10d %14.2f\n", p.Name, mode, all.n, all.largest, std, predicted, bound, float64(bound)/std)
			if uint64(all.largest) > bound {
				t.Errorf("%s, %v: noise of %d, the bound is %d", p.Name, mode, all.largest, bound)
			}
			// Of a normal deviate the sample's standard deviation varies by
			// 1/√(2n); shared-key's noise also by its keys.
			allowed := 7 / math.Sqrt(2*float64(all.n))
			if mode == params.SharedKey {
				allowed += 0.05
			}
			if math.Abs(std/predicted-1) > allowed {
				t.Errorf("%s, %v: standard deviation %.4f, predicted is %.4f", p.Name, mode, std, predicted)
			}
			if z := all.mean / std / math.Sqrt(float64(all.n)); math.Abs(z) > 7 {
				t.Errorf("%s, %v: the mean of the noise is %.1f standard deviations from zero", p.Name, mode, z)
			}
		}
	}
	t.Logf("noise of a sum of 4 clients, public weights 1, 2, 3, 5 in shared-key\n%s", table.String())
}

// centred is the representative of least magnitude.
func centred(v, q uint64) int64 {
	if v > q/2 {
		return int64(v) - int64(q)
	}
	return int64(v)
}

// TestNoiseAtTheBoundOpensAndBeyondItDoesNot: ciphertexts are given more noise
// by hand, for each preset and mode. At the bound, of either sign, the sum is
// exact; one more anywhere and it does not open.
func TestNoiseAtTheBoundOpensAndBeyondItDoesNot(t *testing.T) {
	for _, p := range params.Presets() {
		for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
			t.Run(fmt.Sprintf("%s/%v", p.Name, mode), func(t *testing.T) {
				c := cohortOf(t, p.Name, mode, []uint32{2, 1, 7}, 9)
				d, acc := c.decryptor(t), fold.New(c.Preset)
				rng := rand.New(rand.NewPCG(4, uint64(p.ID)))
				m, words := room(c, message(rng, c.Scheme, p.N())), d.planes()
				b, h := c.sum(t, acc, 5, m)
				if err := d.Decrypt(words, b, h); err != nil {
					t.Fatal(err)
				}
				exact, e := clone(words), make([]int64, p.N())
				q0 := d.fields[0].q
				for i := range e {
					e[i] = centred((d.sums[0][i]+q0-scaledMod(exact, i, c.LogDelta, q0))%q0, q0)
				}
				bound := int64(d.bound)
				// Every coefficient at the bound, signs in turn.
				more := make([]int64, p.N())
				for i := range more {
					if more[i] = bound - e[i]; i%2 == 1 {
						more[i] = -bound - e[i]
					}
				}
				full := disturb(c, b, more)
				if err := d.Decrypt(words, full, h); err != nil {
					t.Fatalf("noise at the bound: %v", err)
				}
				for w := range words {
					for i := range words[w] {
						if words[w][i] != exact[w][i] {
							t.Fatalf("coefficient %d, word %d is not exact", i, w)
						}
					}
				}
				for _, i := range []int{0, 1, 7, 8, p.N()/2 + 1, p.N() - 2, p.N() - 1} {
					for name, from := range map[string][]byte{"alone": b, "among all at the bound": full} {
						one := make([]int64, p.N())
						if one[i] = 1 - 2*int64(i%2); name == "alone" {
							one[i] += more[i]
						}
						if err := d.Decrypt(words, disturb(c, from, one), h); !errors.Is(err, errs.ErrDecrypt) {
							t.Errorf("one beyond the bound at coefficient %d, %s: %v", i, name, err)
						}
					}
				}
			})
		}
	}
}

// room keeps the top bits of messages free for the sum of the weights.
func room(c *cohort, m [][]uint64) [][]uint64 {
	total := 0
	for _, w := range c.weights {
		total += int(w)
	}
	keep := c.Lanes*c.LaneWidth() - bits.Len(uint(total))
	for w := range m {
		for i := range m[w] {
			m[w][i] &= ^uint64(0) >> (64 - max(0, min(64, keep-64*w)))
		}
	}
	return m
}

func clone(words [][]uint64) [][]uint64 {
	out := make([][]uint64, len(words))
	for w := range words {
		out[w] = append([]uint64(nil), words[w]...)
	}
	return out
}

// scaledMod is Δ·m of coefficient i modulo q.
func scaledMod(m [][]uint64, i, logDelta int, q uint64) uint64 {
	return new(big.Int).Mod(scaled(m, i, logDelta), new(big.Int).SetUint64(q)).Uint64()
}

// disturb adds noise to the first component of a frame.
func disturb(c *cohort, b []byte, more []int64) []byte {
	out := append([]byte(nil), b...)
	body, size := out[frame.HeaderSize:], frame.BlockSize(len(more), c.Width)
	v := make([]uint64, len(more))
	for _, q := range c.Primes {
		frame.Unpack(v, body[:size], c.Width, q)
		for i, e := range more {
			v[i] = uint64((int64(v[i]) + e + int64(q)) % int64(q))
		}
		frame.Pack(body[:size], v, c.Width)
		body = body[size:]
	}
	return out
}
