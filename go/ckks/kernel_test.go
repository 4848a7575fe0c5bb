package ckks

import (
	"crypto/rand"
	mrand "math/rand/v2"
	"slices"
	"testing"

	"github.com/cryptflow/cryptflow/go/kernel"
	"github.com/cryptflow/cryptflow/go/params"
)

// TestTheFastSamplerIsThePortableOne bit for bit, at every length and at the
// words on both sides of every threshold.
func TestTheFastSamplerIsThePortableOne(t *testing.T) {
	if !kernel.Available {
		t.Log("this processor has no AVX2 with FMA: both are the portable one")
	}
	var stream []byte
	put := func(w uint64) {
		for range 8 {
			stream = append(stream, byte(w))
			w >>= 8
		}
	}
	for _, sign := range []uint64{0, 1 << 63} {
		for _, u := range append([]uint64{0, 1, 1<<63 - 1}, thresholds[:]...) {
			put(u | sign)
			put((u-1)&(1<<63-1) | sign)
			put((u+1)&(1<<63-1) | sign)
		}
	}
	random := make([]byte, 8<<16)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	stream = append(stream, random...)
	check := func(n int) {
		t.Helper()
		got, want := make([]int32, n), make([]int32, n)
		gaussian(got, stream[:8*n])
		gaussianPlain(want, stream[:8*n])
		if !slices.Equal(got, want) {
			t.Fatalf("%d samples differ", n)
		}
	}
	for n := range 40 {
		check(n)
	}
	check(len(stream) / 8)
}

// TestTheFastTransformsAreLattigos bit for bit, for every prime: random
// residues, extreme ones, and single ones that show a whole column.
func TestTheFastTransformsAreLattigos(t *testing.T) {
	rng := mrand.New(mrand.NewPCG(8, 9))
	for _, p := range params.Presets() {
		c, err := contextOf(p)
		if err != nil {
			t.Fatal(err)
		}
		for j := range c.fields {
			f := &c.fields[j]
			if p.Width <= kernel.MaxWidth && kernel.Available && (f.fast == nil || f.ntt == nil) {
				t.Fatalf("%s has no fast transforms", p.Name)
			}
			check := func(what string, x []uint64) {
				t.Helper()
				got, want := slices.Clone(x), slices.Clone(x)
				f.inverse(got)
				f.sub.INTT(want, want)
				if !slices.Equal(got, want) {
					t.Fatalf("%s, prime %d: %s differs", p.Name, j, what)
				}
				copy(got, x)
				f.forward(got)
				if f.sub.NTT(x, want); !slices.Equal(got, want) {
					t.Fatalf("%s, prime %d: %s differs forward", p.Name, j, what)
				}
			}
			x := make([]uint64, p.N())
			check("zero", x)
			for _, v := range []uint64{1, f.q - 1, f.q / 2, f.q/2 + 1} {
				for i := range x {
					x[i] = v
				}
				check("a constant", x)
				for i := range x {
					if i%2 == 1 {
						x[i] = f.q - v
					}
				}
				check("alternating", x)
			}
			for range 64 {
				clear(x)
				x[rng.IntN(len(x))] = f.q - 1
				check("one", x)
			}
			for range 200 {
				for i := range x {
					x[i] = rng.Uint64N(f.q)
				}
				check("random", x)
			}
			for range 50 {
				for i := range x {
					x[i] = []uint64{0, 1, f.q - 1, f.q / 2, f.q/2 + 1}[rng.IntN(5)]
				}
				check("extreme", x)
			}
		}
	}
}

// TestTheFastProductIsThePortableOne, with every word below q and with one
// that is not, anywhere.
func TestTheFastProductIsThePortableOne(t *testing.T) {
	rng := mrand.New(mrand.NewPCG(10, 11))
	for _, p := range params.Presets() {
		c, err := contextOf(p)
		if err != nil {
			t.Fatal(err)
		}
		small := make([]int32, p.N())
		for j := range c.fields {
			f, mask := &c.fields[j], uint64(1)<<p.Width-1
			for range 30 {
				for i := range small {
					small[i] = int32(rng.IntN(81)) - 40
				}
				by := c.fields[j].factor(make([]uint64, c.N()), small)
				if by.fast == nil {
					continue
				}
				words, plain := make([]byte, 8*p.N()), make([]uint64, p.N())
				for i := range plain {
					plain[i] = rng.Uint64N(f.q)
					if rng.IntN(9) == 0 {
						plain[i] = []uint64{0, 1, f.q - 1, f.q / 2}[rng.IntN(4)]
					}
					w := plain[i] | rng.Uint64()&^mask
					for k := range 8 {
						words[8*i+k] = byte(w >> (8 * k))
					}
				}
				got, want := make([]uint64, p.N()), make([]uint64, p.N())
				if !by.fast.Multiply(got, words, mask) {
					t.Fatalf("%s: a word below q was refused", p.Name)
				}
				if f.product(want, plain, by.montgomery); !slices.Equal(got, want) {
					t.Fatalf("%s, prime %d differs", p.Name, j)
				}
				at := rng.IntN(p.N())
				for k, v := 0, f.q+rng.Uint64N(mask-f.q+1); k < 8; k++ {
					words[8*at+k] = byte(v >> (8 * k))
				}
				if by.fast.Multiply(got, words, mask) {
					t.Fatalf("%s: a word beyond q at %d was taken", p.Name, at)
				}
			}
		}
	}
}

// TestTheFastJoinIsThePortableOne, with remainders on both sides of the bound
// and sums that wrap modulo Q.
func TestTheFastJoinIsThePortableOne(t *testing.T) {
	rng := mrand.New(mrand.NewPCG(12, 13))
	for _, p := range params.Presets() {
		c, err := contextOf(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.fields) != 2 {
			continue
		}
		if kernel.Available && c.fields[1].join == nil {
			t.Fatalf("%s has no fast join", p.Name)
		}
		plain := *c
		plain.fields = slices.Clone(c.fields)
		plain.fields[1].join = nil
		for _, logDelta := range []int{1, 12, 20, 37, p.Width} {
			for _, bound := range []uint64{1, 1 << (logDelta - 1), 1<<(logDelta-1) - 1, 1 << max(logDelta-2, 0)} {
				for _, n := range []int{1, 4, 7, 256} {
					residues := [2][]uint64{make([]uint64, n), make([]uint64, n)}
					for j := range residues {
						for i := range residues[j] {
							q := c.fields[j].q
							if residues[j][i] = rng.Uint64N(q); rng.IntN(4) == 0 {
								residues[j][i] = []uint64{0, 1, q - 1, q / 2}[rng.IntN(4)]
							}
						}
					}
					// Half of the time one small number under both primes: the
					// remainder decides then.
					if rng.IntN(2) == 0 {
						for i := range n {
							e := int64(rng.Uint64N(2*bound+3)) - int64(bound+1)
							for j := range residues {
								residues[j][i] = uint64((e%int64(c.fields[j].q) + int64(c.fields[j].q)) % int64(c.fields[j].q))
							}
						}
					}
					for j := range residues {
						for i := range n {
							residues[j][i] += c.fields[j].q * rng.Uint64N(2) // below 2q
						}
					}
					join := func(c *context) ([][]uint64, bool) {
						words := [][]uint64{make([]uint64, n), make([]uint64, n)}
						ok := c.join(words, [][]uint64{slices.Clone(residues[0]), slices.Clone(residues[1])}, n, logDelta, bound)
						return words, ok
					}
					got, ok := join(c)
					want, wantOK := join(&plain)
					if ok != wantOK || !slices.Equal(got[0], want[0]) || !slices.Equal(got[1], want[1]) {
						t.Fatalf("%s, log Δ %d, bound %d, %d coefficients: %v, want %v", p.Name, logDelta, bound, n, ok, wantOK)
					}
				}
			}
		}
	}
}

// TestTheFastKeystreamIsThePortableOne in every purpose and at odd lengths.
func TestTheFastKeystreamIsThePortableOne(t *testing.T) {
	for _, size := range []int{16, 32} {
		key := make([]byte, size)
		if _, err := rand.Read(key); err != nil {
			t.Fatal(err)
		}
		fast, err := newKeystream(key)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := newPlainKeystream(key)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 1, 16, 255, 256, 8 << 10, 8<<10 + 12} {
			got := fast.fill(make([]byte, n+tail), n, 7, 1<<31, purposeRounding)
			want := plain.fill(make([]byte, n+tail), n, 7, 1<<31, purposeRounding)
			if !slices.Equal(got, want) {
				t.Fatalf("%d bytes under a key of %d differ", n, size)
			}
		}
	}
}
