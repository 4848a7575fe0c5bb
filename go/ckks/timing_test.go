package ckks

import (
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/kernel"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/timing"
)

// TestTimingOfSecrets reports whether the time of what touches secrets and
// errors differs between fixed and random ones (make timing). What it finds is
// printed and asserted nowhere: it says as much about this computer.
func TestTimingOfSecrets(t *testing.T) {
	n, err := timing.Wanted()
	if err != nil {
		t.Fatal(err)
	}
	s := schemeOf(t, "n4096-q102", params.SumKey)
	c, err := contextOf(s.Preset)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 5))
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	degree, f := c.N(), &c.fields[0]
	// Random inputs are drawn for both classes; what is copied to where Run
	// reads it differs by its bytes alone.
	bytes, drawn, zeros := make([]byte, 8*degree), make([]byte, 8*degree), make([]byte, 8*degree)
	fillBytes := func(random bool) {
		for i := range drawn {
			drawn[i] = byte(rng.Uint32())
		}
		put(bytes, drawn, zeros, random)
	}
	small, smallDrawn, smallZeros := make([]int32, degree), make([]int32, degree), make([]int32, degree)
	smalls := func(random bool) {
		for i := range small {
			smallDrawn[i] = int32(rng.IntN(2*largest+1)) - int32(largest)
		}
		put(small, smallDrawn, smallZeros, random)
	}
	// The preset of four primes has joins and messages of its own.
	four := schemeOf(t, "n8192-q204", params.SumKey)
	c4, err := contextOf(four.Preset)
	fail(err)
	residues, wide, wideZeros := make([]uint64, degree), make([]uint64, c4.N()), make([]uint64, c4.N())
	uniform := func(dst []uint64) func(bool) {
		return func(random bool) {
			for i := range dst {
				wide[i] = rng.Uint64N(f.q)
			}
			put(dst, wide, wideZeros, random)
		}
	}
	var seed, noise Seed
	seeds := func(random bool) {
		for i := range seed {
			seed[i], noise[i] = byte(rng.Uint32()), byte(rng.Uint32())
			if !random {
				seed[i], noise[i] = 1, 2
			}
		}
	}
	expander, err := newExpander(&testDigest, degree)
	fail(err)
	var by factor
	limbs, words, sums := c.planes(), c.planes(), c.planes()
	plaintext := func(s *params.Scheme, words [][]uint64) func(bool) {
		return func(random bool) {
			for w := range words {
				for i := range words[w] {
					wide[i] = rng.Uint64() >> (64 - max(0, min(64, s.Lanes*s.LaneWidth()-64*w)))
				}
				put(words[w], wide, wideZeros, random)
			}
		}
	}
	masked := plaintext(s, words)
	limbs4, words4, sums4 := c4.planes(), c4.planes(), c4.planes()
	masked4 := plaintext(four, words4)
	small4 := make([]int32, c4.N())
	split4 := func(random bool) {
		masked4(random)
		smalls(random)
		copy(small4, small)
		copy(small4[degree:], small)
		c4.split(limbs4, words4, 0, c4.N(), four.LogDelta)
	}
	h := wholeHeader(s, 1)
	frame := make([]byte, h.Size())
	var e *Encryptor
	var d *Decryptor
	acc := fold.New(s.Preset)
	cases := []timing.Case{
		{Name: "sampler", Prepare: fillBytes, Run: func() { gaussian(small, bytes) }},
		{Name: "sampler, portable", Prepare: fillBytes, Run: func() { gaussianPlain(small, bytes) }},
		{Name: "key expansion from a seed", Prepare: seeds, Run: func() {
			_, err := secretOf(s.Preset, &testDigest, &seed)
			fail(err)
		}},
		{Name: "secret into the NTT domain", Prepare: smalls, Run: func() { f.load(residues, small) }},
		{Name: "secret into the NTT domain, portable", Prepare: uniform(residues), Run: func() { f.sub.NTT(residues, residues) }},
		{Name: "secret made ready for products", Prepare: smalls, Run: func() { _, _ = c.factors(small, nil) }},
		{Name: "a times secret", Prepare: func(random bool) { smalls(random); by = c.fields[0].factor(make([]uint64, c.N()), small) }, Run: func() { expander.multiply(residues, &by, 1, 0, f, c.Width) }},
		{Name: "a times secret, portable", Prepare: func(random bool) {
			smalls(random)
			by = c.fields[0].factor(make([]uint64, c.N()), small)
			by.fast = nil
		}, Run: func() { expander.multiply(residues, &by, 1, 0, f, c.Width) }},
		{Name: "inverse transform", Prepare: uniform(residues), Run: func() { f.inverse(residues) }},
		{Name: "inverse transform, portable", Prepare: uniform(residues), Run: func() { f.sub.INTT(residues, residues) }},
		{Name: "message to limbs", Prepare: masked, Run: func() { c.split(limbs, words, 0, degree, s.LogDelta) }},
		{Name: "message and error added", Prepare: func(random bool) {
			masked(random)
			c.split(limbs, words, 0, degree, s.LogDelta)
			smalls(random)
			uniform(residues)(true)
		}, Run: func() { f.addMessage(residues, words, limbs, small, s.LogDelta, c.Width) }},
		{Name: "message and error added, portable", Prepare: func(random bool) {
			masked(random)
			c.split(limbs, words, 0, degree, s.LogDelta)
			smalls(random)
			uniform(residues)(true)
		}, Run: func() { f.addMessageAny(residues, limbs, small, c.Width) }},
		{Name: "message and error added, four primes", Prepare: split4, Run: func() {
			c4.fields[0].addMessage(sums4[0], words4, limbs4, small4, four.LogDelta, c4.Width)
		}},
		{Name: "encryption of a chunk", Prepare: func(random bool) {
			seeds(random)
			masked(random)
			var err error
			e, err = NewSumKeyEncryptor(s, testDigest, seed, noise, nil)
			fail(err)
		}, Run: func() { fail(e.Encrypt(frame, h, words)) }},
		{Name: "residual check of a sum", Prepare: func(random bool) {
			masked(random)
			smalls(random)
			c.split(limbs, words, 0, degree, s.LogDelta)
			for j := range sums {
				clear(sums[j])
				c.fields[j].addMessage(sums[j], words, limbs, small, s.LogDelta, c.Width)
			}
		}, Run: func() {
			if !c.join(words, sums, degree, s.LogDelta, s.NoiseBound(1)) {
				t.Fatal("the noise is within the bound")
			}
		}},
		{Name: "residual check of a sum, four primes", Prepare: func(random bool) {
			split4(random)
			for j := range sums4 {
				clear(sums4[j])
				c4.fields[j].addMessage(sums4[j], words4, limbs4, small4, four.LogDelta, c4.Width)
			}
		}, Run: func() {
			if !c4.join(words4, sums4, c4.N(), four.LogDelta, four.NoiseBound(1)) {
				t.Fatal("the noise is within the bound")
			}
		}},
		{Name: "decryption of a chunk", Prepare: func(random bool) {
			seeds(random)
			masked(random)
			var err error
			e, err = NewSumKeyEncryptor(s, testDigest, seed, noise, nil)
			fail(err)
			fail(e.Encrypt(frame, h, words))
			acc.Reset(h)
			fail(acc.Add(frame, 1))
			frame = acc.Append(frame[:0])
			secret, err := SumSecrets(s.Preset, testDigest, []Seed{seed})
			fail(err)
			d, err = NewDecryptor(s, testDigest, secret, 1, 1, nil)
			fail(err)
		}, Run: func() { fail(d.Decrypt(words, frame, h)) }},
	}
	results, table := timing.Run(n, cases)
	if len(results) != len(cases) {
		t.Errorf("%d of %d cases were measured", len(results), len(cases))
	}
	t.Logf("n4096-q102, sum-key, fixed inputs against random ones; kernels: %v\n%s", kernel.Available, table)
}

// put copies one of two inputs to dst.
func put[T any](dst, random, fixed []T, isRandom bool) {
	from := [2][]T{fixed, random}
	// Both are read: what one alone leaves in the caches would be measured.
	copy(dst, from[1-b2i(isRandom)])
	copy(dst, from[b2i(isRandom)])
}
