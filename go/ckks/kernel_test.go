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
