package encoding

import (
	"testing"

	"github.com/cryptflow/cryptflow/go/params"
)

func BenchmarkLanes(b *testing.B) {
	for _, rounding := range []params.Rounding{params.Stochastic, params.NearestEven} {
		s, err := params.NewScheme(params.Choice{Preset: "n4096-q102", Mode: params.SumKey, Bits: 16, Clients: 64, Weight: 1, Rounding: rounding})
		if err != nil {
			b.Fatal(err)
		}
		l, err := NewLanes(s, []Tensor{{Count: int64(s.ChunkValues()), Range: 1}})
		if err != nil {
			b.Fatal(err)
		}
		words := [][]uint64{make([]uint64, s.N()), make([]uint64, s.N())}
		values, rho := make([]float32, s.ChunkValues()), make([]byte, 4*s.ChunkValues())
		run := func(name string, f func()) {
			b.Run(rounding.String()+"/"+name, func(b *testing.B) {
				for b.Loop() {
					f()
				}
				b.ReportMetric(float64(len(values))*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mvalues/s")
			})
		}
		run("encode", func() { l.Encode(words, values, 0, 0.5, rho) })
		run("decode", func() { _ = l.Decode(values, words, 0, 1, 1) })
		run("scan", func() { l.Scan(values, 0, 0.5, make([]Seen, 1)) })
	}
}
