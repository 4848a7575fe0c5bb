package fold_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

// contribution is a frame of random residues and the residues themselves.
func contribution(rng *rand.Rand, h frame.Header, p *params.Preset, largest bool) ([]byte, [][]uint64) {
	b := h.Append(nil)
	var all [][]uint64
	for c := range int(h.Components) {
		n := int(h.Coefficients)
		if c == 1 {
			n = p.N()
		}
		for _, q := range p.Primes {
			v := make([]uint64, n)
			for i := range v {
				if v[i] = q - 1; !largest {
					v[i] = rng.Uint64N(q)
				}
			}
			block := make([]byte, frame.BlockSize(n, p.Width))
			frame.Pack(block, v, p.Width)
			b, all = append(b, block...), append(all, v)
		}
	}
	return b, all
}

func header(p *params.Preset, components, coefficients int) frame.Header {
	return frame.Header{
		Preset: p.ID, Encoding: params.Lanes, Components: uint8(components), Key: [16]byte{9},
		Chunk: 5, Terms: 1, Weight: 1, Coefficients: uint32(coefficients),
	}
}

// TestSumEqualsBigIntegers compares folded frames with sums in big integers:
// every preset, one and two components, whole and short, largest residues.
func TestSumEqualsBigIntegers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, p := range params.Presets() {
		acc := fold.New(p)
		for components := 1; components <= 2; components++ {
			for _, coefficients := range []int{1, 511, 513, p.N()} {
				for _, largest := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/components=%d/coefficients=%d/largest=%v", p.Name, components, coefficients, largest), func(t *testing.T) {
						h := header(p, components, coefficients)
						acc.Reset(h)
						var want [][]*big.Int
						total := uint32(0)
						const terms = 40 // 40 weights of 255 exceed what 64 bits hold unreduced
						for range terms {
							w := uint32(1)
							if components == 2 {
								w = params.MaxWeight
							}
							b, residues := contribution(rng, h, p, largest)
							if err := acc.Add(b, w); err != nil {
								t.Fatal(err)
							}
							total += w
							for k, block := range residues {
								if len(want) <= k {
									want = append(want, make([]*big.Int, len(block)))
									for i := range block {
										want[k][i] = new(big.Int)
									}
								}
								for i, v := range block {
									want[k][i].Add(want[k][i], new(big.Int).SetUint64(v*uint64(w)))
								}
							}
						}
						h.Terms, h.Weight = terms, total
						got := acc.Append(nil)
						if err := frame.Check(got, h); err != nil {
							t.Fatal(err)
						}
						expected := h.Append(nil)
						for k, sums := range want {
							q := new(big.Int).SetUint64(p.Primes[k%len(p.Primes)])
							v := make([]uint64, len(sums))
							for i := range sums {
								v[i] = sums[i].Mod(sums[i], q).Uint64()
							}
							block := make([]byte, frame.BlockSize(len(v), p.Width))
							frame.Pack(block, v, p.Width)
							expected = append(expected, block...)
						}
						if !bytes.Equal(got, expected) {
							t.Fatal("the folded frame differs from the sum in big integers")
						}
					})
				}
			}
		}
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	p := params.Presets()[0]
	h := header(p, 2, 700)
	frames, weights := make([][]byte, 9), make([]uint32, 9)
	for i := range frames {
		frames[i], _ = contribution(rng, h, p, false)
		weights[i] = 1 + rng.Uint32N(params.MaxWeight)
	}
	acc := fold.New(p)
	var first []byte
	for range 5 {
		acc.Reset(h)
		for _, i := range rng.Perm(len(frames)) {
			if err := acc.Add(frames[i], weights[i]); err != nil {
				t.Fatal(err)
			}
		}
		got := acc.Append(nil)
		if first == nil {
			first = got
		}
		if !bytes.Equal(first, got) {
			t.Fatal("another order gave other bytes")
		}
	}
}

// TestRefusedFrameLeavesNoTrace adds bad frames between good ones: the sum is
// that of the good ones.
func TestRefusedFrameLeavesNoTrace(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, p := range params.Presets() {
		h := header(p, 2, 1003)
		good, _ := contribution(rng, h, p, false)
		clean := fold.New(p)
		clean.Reset(h)
		if err := errors.Join(clean.Add(good, 7), clean.Add(good, 9)); err != nil {
			t.Fatal(err)
		}
		acc := fold.New(p)
		acc.Reset(h)
		if err := acc.Add(good, 7); err != nil {
			t.Fatal(err)
		}
		bad, _ := contribution(rng, h, p, false)
		bad[len(bad)-1] |= 0xff // the last residue of the last block
		for i := len(bad) - 8; i < len(bad); i++ {
			bad[i] = 0xff
		}
		refuse := func(name string, b []byte, weight uint32, want error) {
			t.Helper()
			if err := acc.Add(b, weight); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
		refuse("residue", bad, 3, errs.ErrFrame)
		refuse("truncated", good[:len(good)-1], 1, errs.ErrFrame)
		refuse("extended", append(bytes.Clone(good), 0), 1, errs.ErrFrame)
		refuse("weight 0", good, 0, errs.ErrWeight)
		refuse("weight 256", good, params.MaxWeight+1, errs.ErrWeight)
		other := bytes.Clone(good)
		other[24]++
		refuse("chunk", other, 1, errs.ErrFrameContext)
		if err := acc.Add(good, 9); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(acc.Append(nil), clean.Append(nil)) {
			t.Errorf("%s: a refused frame changed the sum", p.Name)
		}
	}
}

func TestResetRefusesWhatIsNoContribution(t *testing.T) {
	p := params.Presets()[1]
	good := header(p, 1, 9)
	cases := map[string]struct {
		change func(*frame.Header)
		want   error
	}{
		"another preset": {func(h *frame.Header) { h.Preset = params.N2048Q52 }, errs.ErrFrameContext},
		"a sum":          {func(h *frame.Header) { h.Terms, h.Weight = 2, 2 }, errs.ErrFrameContext},
		"a public key":   {func(h *frame.Header) { h.Encoding = params.PublicKey }, errs.ErrFrameContext},
		"no components":  {func(h *frame.Header) { h.Components = 0 }, errs.ErrFrame},
		"no coefficient": {func(h *frame.Header) { h.Coefficients = 0 }, errs.ErrFrame},
	}
	b, _ := contribution(rand.New(rand.NewPCG(1, 1)), good, p, false)
	acc := fold.New(p)
	if err := acc.Add(b, 1); !errors.Is(err, errs.ErrInternal) {
		t.Errorf("Add before Reset: %v", err)
	}
	for name, c := range cases {
		h := good
		c.change(&h)
		acc.Reset(h)
		if err := acc.Add(b, 1); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if len(acc.Append(nil)) != 0 {
			t.Errorf("%s: a result without terms", name)
		}
	}
	acc.Reset(good)
	if err := acc.Add(b, 2); !errors.Is(err, errs.ErrWeight) {
		t.Errorf("public weight without public weights: %v", err)
	}
	if err := acc.Add(b, 1); err != nil {
		t.Error(err)
	}
}

func TestWarmFoldAllocatesNothing(t *testing.T) {
	for _, p := range params.Presets() {
		h := header(p, 2, p.N())
		b, _ := contribution(rand.New(rand.NewPCG(8, 8)), h, p, false)
		acc := fold.New(p)
		out := make([]byte, 0, len(b))
		n := testing.AllocsPerRun(10, func() {
			acc.Reset(h)
			for range 3 {
				if err := acc.Add(b, 200); err != nil {
					t.Fatal(err)
				}
			}
			out = acc.Append(out[:0])
		})
		if n != 0 {
			t.Errorf("%s: %v allocations a chunk", p.Name, n)
		}
	}
}

func BenchmarkFold(b *testing.B) {
	for _, p := range params.Presets() {
		for _, weight := range []uint32{1, 200} {
			b.Run(fmt.Sprintf("%s/weight=%d", p.Name, weight), func(b *testing.B) {
				h := header(p, 2, p.N())
				raw, _ := contribution(rand.New(rand.NewPCG(8, 8)), h, p, false)
				acc := fold.New(p)
				acc.Reset(h)
				for b.Loop() {
					if acc.Terms() == params.MaxClients {
						acc.Reset(h)
					}
					if err := acc.Add(raw, weight); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(2*len(p.Primes)*p.N())*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mresidues/s")
			})
		}
	}
}
