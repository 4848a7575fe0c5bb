package ckks

import (
	"testing"

	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

func BenchmarkParts(b *testing.B) {
	s, err := params.NewScheme(params.Choice{Preset: "n4096-q102", Mode: params.SumKey, Bits: 16, Clients: 64, Weight: 1, Rounding: params.Stochastic})
	if err != nil {
		b.Fatal(err)
	}
	e, err := NewSumKeyEncryptor(s, [32]byte{1}, Seed{1}, Seed{2}, nil)
	if err != nil {
		b.Fatal(err)
	}
	n := s.N()
	values := float64(s.ChunkValues())
	run := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
			b.ReportMetric(values*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mvalues/s")
		})
	}
	g := frame.Geometry{Scheme: s, Values: int64(s.ChunkValues()), Controls: 4}
	h := g.Header(0)
	dst := make([]byte, h.Size())
	words := e.planes()
	run("encrypt", func() { _ = e.Encrypt(dst, h, words) })
	run("expand", func() {
		for j := range e.fields {
			e.public.expand(e.poly, 0, j, e.fields[j].q, e.Width)
		}
	})
	run("multiply", func() {
		for j := range e.fields {
			e.public.multiply(e.poly, &e.secret[j], 0, j, &e.fields[j], e.Width)
		}
	})
	run("product", func() {
		for j := range e.fields {
			e.fields[j].product(e.poly, e.poly, e.secret[j].montgomery)
		}
	})
	run("intt", func() {
		for j := range e.fields {
			e.fields[j].inverse(e.poly)
		}
	})
	run("stream", func() { e.noise.fill(e.buf, 8*n, 0, 0, purposeError) })
	run("rounding", func() { e.Rounding(0, s.ChunkValues()) })
	run("gauss", func() { gaussian(e.small, e.buf[:8*n]) })
	run("split", func() { e.split(e.limbs, words, 0, n, s.LogDelta) })
	run("message", func() {
		for j := range e.fields {
			e.fields[j].addMessage(e.poly, words, e.limbs, e.small, s.LogDelta, e.Width)
		}
	})
	run("pack", func() {
		for range e.fields {
			frame.Pack(dst[frame.HeaderSize:], e.poly, e.Width)
		}
	})
	d, err := NewDecryptor(s, [32]byte{1}, make([]int32, n), 1, 1, nil)
	if err != nil {
		b.Fatal(err)
	}
	run("decrypt", func() { _ = d.Decrypt(words, dst, h) })
	run("join", func() { d.join(words, d.sums, n, s.LogDelta, d.bound) })
}
