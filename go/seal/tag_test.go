package seal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
)

// unpack reads the residues of a frame: by component, by prime.
func unpack(t *testing.T, p *params.Preset, b []byte) (frame.Header, [][][]uint64) {
	t.Helper()
	h, err := frame.ParseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	at, out := frame.HeaderSize, make([][][]uint64, h.Components)
	for c := range out {
		n := int(h.Coefficients)
		if c == 1 {
			n = p.N()
		}
		for _, q := range p.Primes {
			v := make([]uint64, n)
			size := frame.BlockSize(n, p.Width)
			if !frame.Unpack(v, b[at:at+size], p.Width, q) {
				t.Fatal("residues")
			}
			out[c], at = append(out[c], v), at+size
		}
	}
	return h, out
}

func pack(p *params.Preset, h frame.Header, components [][][]uint64) []byte {
	b := h.Append(nil)
	for _, c := range components {
		for _, v := range c {
			block := make([]byte, frame.BlockSize(len(v), p.Width))
			frame.Pack(block, v, p.Width)
			b = append(b, block...)
		}
	}
	return b
}

// plant adds delta steps to lane 0 of one coefficient of a sum.
func plant(t *testing.T, s *params.Scheme, b []byte, coefficient int, delta uint64) []byte {
	h, c := unpack(t, s.Preset, b)
	for j, q := range s.Primes {
		c[0][j][coefficient] = (c[0][j][coefficient] + delta<<s.LogDelta) % q
	}
	return pack(s.Preset, h, c)
}

// turn multiplies a sum by X: every coefficient moves one place, which is a
// reordering that a public-key ciphertext survives. The last becomes the first
// with its sign changed, so it has to be 0.
func turn(t *testing.T, s *params.Scheme, b []byte) []byte {
	h, c := unpack(t, s.Preset, b)
	for _, component := range c {
		for j, q := range s.Primes {
			v := component[j]
			last := v[len(v)-1]
			copy(v[1:], v)
			v[0] = (q - last) % q
		}
	}
	return pack(s.Preset, h, c)
}

// sum folds the cohort with public weights of the aggregator's choosing; 0
// leaves a client out. The header claims what the manifest says.
func (c *cohort) sum(t *testing.T, weights []uint32) [][]byte {
	t.Helper()
	g, rel := c.round.Geometry(), c.release(t)
	result := make([][]byte, g.Frames())
	for k := range result {
		acc := fold.New(c.round.Scheme.Preset)
		acc.Reset(g.Header(k))
		for i, w := range weights {
			for w > 0 {
				// One at a time, so that sum-key takes it too.
				if err := acc.Add(c.frames[i][k], 1); err != nil {
					t.Fatal(err)
				}
				w--
			}
		}
		result[k] = claim(acc.Append(nil), rel)
	}
	return result
}

// claim writes a release's terms and weights into a header.
func claim(b []byte, rel seal.Release) []byte {
	h, err := frame.ParseHeader(b)
	if err != nil {
		panic(err)
	}
	h.Terms, h.Weight = rel.Terms, rel.WeightSum
	return append(h.Append(nil), b[frame.HeaderSize:]...)
}

// attempt opens a result as every client does and returns what it notices.
func (c *cohort) attempt(t *testing.T, round seal.Round, result [][]byte) error {
	t.Helper()
	o, err := seal.NewOpener(round, c.release(t), 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.OpenControl(result[len(result)-1]); err != nil {
		return err
	}
	if err := o.OpenRange(t.Context(), 0, result[:len(result)-1], make([]float32, round.Values())); err != nil {
		return err
	}
	return o.Verify()
}

// TestTagCatchesALoneAggregator changes sums in every way that needs no help
// of a client. Each is noticed; those marked silent open without an error when
// there is no tag, so that it is the tag that notices them.
func TestTagCatchesALoneAggregator(t *testing.T) {
	for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
		weight, own := 1, []uint32{1, 1, 1}
		if mode == params.SharedKey {
			weight, own = 3, []uint32{1, 2, 1}
		}
		s := choice("n4096-q102", mode, 16, 8, weight, params.Stochastic)
		c := &cohort{weights: own}
		c.round, c.secret = roundOf(t, s, [2]int64{int64(s.ChunkValues()) + 60, 11}, 9)
		rng := rand.New(rand.NewPCG(5, 5))
		for range own {
			x := gaussianUpdate(rng, c.round.Values())
			c.updates = append(c.updates, x)
		}
		c.seal(t, 2)
		shared, others := mode == params.SharedKey, []uint32{2, 1, 1}
		swap := func(r [][]byte) {
			// Chunks of one length under each other's number.
			h0, c0 := unpack(t, s.Preset, r[0])
			h1, c1 := unpack(t, s.Preset, r[1])
			for k := range c0[0] {
				for i := range c1[0][k] {
					c0[0][k][i], c1[0][k][i] = c1[0][k][i], c0[0][k][i]
				}
			}
			r[0], r[1] = pack(s.Preset, h0, c0), pack(s.Preset, h1, c1)
		}
		control := c.round.Geometry().ControlIndex()
		for _, x := range []struct {
			name    string
			weights []uint32
			change  func(r [][]byte)
			silent  bool
		}{
			{"drops a client", []uint32{0, own[1], own[2]}, nil, false},
			{"drops one and counts another twice", []uint32{0, own[1], 2}, nil, shared},
			{"gives clients other weights", others, nil, shared},
			{"scales the sum", []uint32{2 * own[0], 2 * own[1], 2 * own[2]}, nil, false},
			{"adds one step to one value", own, func(r [][]byte) { r[0] = plant(t, s, r[0], 17, 1) }, true},
			{"takes one step from one value", own, func(r [][]byte) { r[0] = plant(t, s, r[0], 3, s.Primes[0]-1) }, false},
			{"adds to the last chunk", own, func(r [][]byte) { r[1] = plant(t, s, r[1], 0, 5) }, true},
			{"adds to two values", own, func(r [][]byte) { r[0] = plant(t, s, plant(t, s, r[0], 1, 2), 2, 2) }, true},
			{"moves a step from one value to another", own, func(r [][]byte) {
				h, v := unpack(t, s.Preset, r[0])
				for j, q := range s.Primes {
					v[0][j][5] = (v[0][j][5] + 1<<s.LogDelta) % q
					v[0][j][6] = (v[0][j][6] + q - 1<<s.LogDelta) % q
				}
				r[0] = pack(s.Preset, h, v)
			}, true},
			{"adds to the clipped values", own, func(r [][]byte) { r[control] = plant(t, s, r[control], 3, 1) }, true},
			{"adds to a metric", own, func(r [][]byte) { r[control] = plant(t, s, r[control], 12, 7) }, true},
			{"changes the tag", own, func(r [][]byte) { r[control] = plant(t, s, r[control], 6, 1) }, true},
			{"exchanges parts of chunks", own, swap, false},
			{"moves coefficients", own, func(r [][]byte) { r[0] = turn(t, s, r[0]) }, false},
		} {
			t.Run(fmt.Sprintf("%v/%s", mode, x.name), func(t *testing.T) {
				result := c.sum(t, x.weights)
				if x.change != nil {
					x.change(result)
				}
				err := c.attempt(t, c.round, result)
				if err == nil {
					t.Fatal("nobody noticed")
				}
				plain := c.round
				plain.Tag = nil
				if without := c.attempt(t, plain, result); (without == nil) != x.silent {
					t.Fatalf("without a tag: %v", without)
				}
				if x.silent && !errors.Is(err, errs.ErrTag) {
					t.Fatalf("%v, want ErrTag", err)
				}
			})
		}
		if err := c.attempt(t, c.round, c.sum(t, own)); err != nil {
			t.Fatalf("%v: the honest sum: %v", mode, err)
		}
	}
}

// A sum is verified only when all of it was opened.
func TestVerifyNeedsEveryFrame(t *testing.T) {
	s := choice("n4096-q102", params.SumKey, 16, 8, 1, params.Stochastic)
	c := &cohort{weights: []uint32{2, 3}}
	c.round, c.secret = roundOf(t, s, [2]int64{int64(s.ChunkValues()), 11}, 9)
	for range c.weights {
		c.updates = append(c.updates, make([]float32, c.round.Values()))
	}
	c.seal(t, 1)
	result := c.sum(t, []uint32{1, 1})
	o, err := seal.NewOpener(c.round, c.release(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Verify(); !errors.Is(err, errs.ErrState) {
		t.Fatalf("nothing opened: %v", err)
	}
	if _, err := o.OpenControl(result[2]); err != nil {
		t.Fatal(err)
	}
	if err := o.Open(t.Context(), 0, result[0], make([]float32, s.ChunkValues())); err != nil {
		t.Fatal(err)
	}
	if err := o.Verify(); !errors.Is(err, errs.ErrState) {
		t.Fatalf("one chunk of two opened: %v", err)
	}
}

// The control chunk's tag covers chunks that were not asked for before it.
func TestControlChunkFirst(t *testing.T) {
	s := choice("n4096-q102", params.SumKey, 16, 8, 1, params.Stochastic)
	r, _ := roundOf(t, s, [2]int64{3 * int64(s.ChunkValues()), 11}, 9)
	x := gaussianUpdate(rand.New(rand.NewPCG(1, 1)), r.Values())
	var all [][]byte
	for _, first := range []bool{false, true} {
		sealer, err := seal.NewSealer(r, secretsOf(1), x, 2, 2, seal.From("a"))
		if err != nil {
			t.Fatal(err)
		}
		n := sealer.Frames()
		var control []byte
		keep := func(_ int, b []byte) error { control = append([]byte(nil), b...); return nil }
		if first {
			err = sealer.Seal(t.Context(), n-1, n, keep)
		} else {
			err = sealer.Seal(t.Context(), 0, n, keep)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, control)
	}
	if string(all[0]) != string(all[1]) {
		t.Fatal("the control chunk depends on the order")
	}
}
