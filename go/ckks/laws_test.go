package ckks

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/params"
)

// TestHomomorphismLaws: Σ w_i·Enc(m_i) opens to Σ w_i·m_i, word for word, for
// each preset and mode, any number of coefficients, any order; Enc(m) and
// Enc(0) sum to m; a weight w is w additions.
func TestHomomorphismLaws(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := rapid.SampledFrom(params.Presets()).Draw(rt, "preset")
		mode := params.Mode(rapid.IntRange(1, 2).Draw(rt, "mode"))
		weights := rapid.SliceOfN(rapid.Uint32Range(1, 20), 1, 6).Draw(rt, "weights")
		c := cohortOf(t, p.Name, mode, weights, rapid.Byte().Draw(rt, "keys"))
		n := rapid.IntRange(1, p.N()).Draw(rt, "coefficients")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "messages"), 5))
		h := wholeHeader(c.Scheme, 0)
		h.Coefficients, h.Chunk = uint32(n), rapid.Uint32().Draw(rt, "chunk")
		d, acc := c.decryptor(t), fold.New(p)
		acc.Reset(h)
		want := d.planes()
		frames := make([][]byte, len(c.clients))
		for i, e := range c.clients {
			m := room(c, message(rng, c.Scheme, n))
			if i%3 == 2 {
				m = d.planes()
			}
			frames[i] = make([]byte, h.Size())
			if err := e.Encrypt(frames[i], h, m); err != nil {
				t.Fatal(err)
			}
			addTimes(want, m, n, uint64(c.weights[i]))
		}
		total := h
		total.Terms, total.Weight = uint32(len(frames)), 0
		for _, i := range rng.Perm(len(frames)) {
			if err := acc.Add(frames[i], c.weights[i]); err != nil {
				t.Fatal(err)
			}
			total.Weight += c.weights[i]
		}
		got := d.planes()
		if err := d.Decrypt(got, acc.Append(nil), total); err != nil {
			t.Fatal(err)
		}
		for w := range want {
			for i := range n {
				if got[w][i] != want[w][i] {
					t.Fatalf("coefficient %d, word %d: %#x, want %#x", i, w, got[w][i], want[w][i])
				}
			}
		}
	})
}

// addTimes adds times·m to sum, integers of several words.
func addTimes(sum, m [][]uint64, n int, times uint64) {
	for i := range n {
		for range times {
			carry := uint64(0)
			for w := range sum {
				before := sum[w][i]
				sum[w][i] += m[w][i] + carry
				if sum[w][i] < before || (carry == 1 && sum[w][i] == before) {
					carry = 1
				} else {
					carry = 0
				}
			}
		}
	}
}
