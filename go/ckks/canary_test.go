package ckks

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

// canaryFrame encrypts a control chunk with canaries and returns their residues.
func canaryFrame(t testing.TB, preset string, spec [32]byte, key, noise Seed, canaries int) (frame.Geometry, [][]uint64) {
	t.Helper()
	s, err := params.NewScheme(params.Choice{Preset: preset, Mode: params.SumKey, Bits: 8, Clients: 5, Weight: 1, Rounding: params.NearestEven})
	if err != nil {
		t.Fatal(err)
	}
	g := frame.Geometry{Scheme: s, Values: 3 * int64(s.ChunkValues()), Controls: 6, Canaries: canaries, Key: [16]byte(spec[:16])}
	if err := g.Validate(); err != nil {
		t.Fatal(err)
	}
	e, err := NewSumKeyEncryptor(s, spec, key, noise, nil)
	if err != nil {
		t.Fatal(err)
	}
	words := message(rand.New(rand.NewPCG(1, 2)), s, g.CanaryFrom())
	b := make([]byte, g.FrameSize(g.ControlIndex()))
	if err := e.Encrypt(b, g.Header(g.ControlIndex()), words); err != nil {
		t.Fatal(err)
	}
	packed, err := g.Canary(b)
	if err != nil {
		t.Fatal(err)
	}
	residues, err := g.CanaryResidues(packed)
	if err != nil {
		t.Fatal(err)
	}
	return g, residues
}

func TestCanaries(t *testing.T) {
	for _, p := range params.Presets() {
		for _, n := range []int{1, 8, params.MaxCanaries} {
			spec, key, noise := [32]byte{1, byte(n)}, Seed{2}, Seed{3}
			g, residues := canaryFrame(t, p.Name, spec, key, noise, n)
			chunk, from := uint32(g.ControlIndex()), g.CanaryFrom()
			check := func(what string, want error, spec [32]byte, chunk uint32, key Seed, from int, residues [][]uint64) {
				t.Helper()
				if err := CheckCanaries(p, spec, chunk, key, from, residues); !errors.Is(err, want) {
					t.Errorf("%s, %d canaries, %s: %v", p.Name, n, what, err)
				}
			}
			check("honest", nil, spec, chunk, key, from, residues)
			check("another key", errs.ErrDeposit, spec, chunk, Seed{4}, from, residues)
			check("no key", errs.ErrDeposit, spec, chunk, Seed{}, from, residues)
			check("another specification", errs.ErrDeposit, [32]byte{9}, chunk, key, from, residues)
			check("another chunk", errs.ErrDeposit, spec, chunk-1, key, from, residues)
			check("another place", errs.ErrDeposit, spec, chunk, key, from-1, residues)
			check("beyond the ring", errs.ErrArgument, spec, chunk, key, p.N(), residues)
			check("a prime too few", errs.ErrArgument, spec, chunk, key, from, residues[1:])
			// A change is refused unless it keeps the residual within ±40 and the
			// same modulo every prime.
			for j, q := range p.Primes {
				for _, by := range []uint64{81, 1 << 30, q - 81} {
					bent := make([][]uint64, len(residues))
					for i := range bent {
						bent[i] = slices.Clone(residues[i])
					}
					bent[j][n-1] = (bent[j][n-1] + by) % q
					check("a bent residue", errs.ErrDeposit, spec, chunk, key, from, bent)
					if len(p.Primes) > 1 {
						bent[j][n-1] = (residues[j][n-1] + 1) % q
						check("a residual of two values", errs.ErrDeposit, spec, chunk, key, from, bent)
					}
					bent[j][n-1] = q
					check("a residue that is none", errs.ErrFrame, spec, chunk, key, from, bent)
				}
			}
		}
	}
}

// TestCanariesTakeTheWholeSupport and nothing beyond it: an honest client is
// never refused.
func TestCanariesTakeTheWholeSupport(t *testing.T) {
	for _, p := range params.Presets() {
		spec, key := [32]byte{1}, Seed{2}
		c, err := contextOf(p)
		if err != nil {
			t.Fatal(err)
		}
		x, err := newExpander(&spec, p.N())
		if err != nil {
			t.Fatal(err)
		}
		secret, err := secretOf(p, &spec, &key)
		if err != nil {
			t.Fatal(err)
		}
		a, s := make([]uint64, p.N()), make([]uint64, p.N())
		residues := make([][]uint64, len(p.Primes))
		for j := range c.fields {
			f := &c.fields[j]
			x.expand(a, 7, j, f.q, p.Width)
			f.load(s, secret)
			f.product(a, a, s)
			f.inverse(a)
			residues[j] = []uint64{(f.q - a[5]) % f.q}
		}
		for e := int64(-45); e <= 45; e++ {
			bent := make([][]uint64, len(residues))
			for j, q := range p.Primes {
				bent[j] = []uint64{uint64((int64(residues[j][0]) + e + int64(q)) % int64(q))}
			}
			err := CheckCanaries(p, spec, 7, key, 5, bent)
			if within := e >= -int64(largest) && e <= int64(largest); within != (err == nil) {
				t.Errorf("%s: an error of %d: %v", p.Name, e, err)
			}
		}
	}
}

func BenchmarkCheckCanaries(b *testing.B) {
	for _, p := range params.Presets() {
		b.Run(p.Name, func(b *testing.B) {
			g, residues := canaryFrame(b, p.Name, [32]byte{1}, Seed{2}, Seed{3}, params.DefaultCanaries)
			for b.Loop() {
				if err := CheckCanaries(p, [32]byte{1}, uint32(g.ControlIndex()), Seed{2}, g.CanaryFrom(), residues); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
