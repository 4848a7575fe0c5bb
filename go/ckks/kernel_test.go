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

// TestTheFastTransformIsLattigos bit for bit, for every prime: random
// residues, extreme ones, and single ones that show a whole column.
func TestTheFastTransformIsLattigos(t *testing.T) {
	rng := mrand.New(mrand.NewPCG(8, 9))
	for _, p := range params.Presets() {
		c, err := contextOf(p)
		if err != nil {
			t.Fatal(err)
		}
		for j := range c.fields {
			f := &c.fields[j]
			if p.Width <= kernel.MaxWidth && kernel.Available && f.fast == nil {
				t.Fatalf("%s has no fast transform", p.Name)
			}
			check := func(what string, x []uint64) {
				t.Helper()
				got, want := slices.Clone(x), slices.Clone(x)
				f.inverse(got)
				f.sub.INTT(want, want)
				if !slices.Equal(got, want) {
					t.Fatalf("%s, prime %d: %s differs", p.Name, j, what)
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
				by := c.factors(small)[j]
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
