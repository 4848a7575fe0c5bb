package ckks

import (
	"math"
	"math/cmplx"
	"math/rand/v2"
	"testing"

	"github.com/tuneinsight/lattigo/v5/core/rlwe"
	"github.com/tuneinsight/lattigo/v5/ring"
	"github.com/tuneinsight/lattigo/v5/schemes/ckks"

	"github.com/cryptflow/cryptflow/go/params"
)

var bothSlots = []params.Encoding{params.Slots, params.SlotsReal}

// TestSlotsAreLattigos compares the embedding with lattigo's encoder, both
// ways and in both rings. The conjugate-invariant ring needs a prime ≡ 1 mod
// 4N, which its plaintexts alone do not.
func TestSlotsAreLattigos(t *testing.T) {
	const logScale = 40
	for _, e := range bothSlots {
		for _, p := range params.Presets() {
			kind := ring.Standard
			if e == params.SlotsReal {
				kind = ring.ConjugateInvariant
			}
			q, err := ckks.NewParametersFromLiteral(ckks.ParametersLiteral{LogN: p.LogN, LogQ: []int{50}, LogDefaultScale: logScale, RingType: kind})
			if err != nil {
				t.Fatal(err)
			}
			encoder, s := ckks.NewEncoder(q), NewSlots(p, e)
			if s.Values() != q.MaxSlots() {
				t.Fatalf("%d slots, lattigo has %d", s.Values(), q.MaxSlots())
			}
			rng := rand.New(rand.NewPCG(4, uint64(e)))
			values, coefficients := make([]float64, s.Values()), make([]float64, p.N())
			for i := range values {
				values[i] = 2*rng.Float64() - 1
			}
			plain := ckks.NewPlaintext(q, 0)
			if err := encoder.Encode(values, plain); err != nil {
				t.Fatal(err)
			}
			s.Embed(coefficients, values)
			poly := plain.Value
			q.RingQ().INTT(poly, poly)
			modulus := q.RingQ().SubRings[0].Modulus
			for i, c := range poly.Coeffs[0] {
				v := int64(c)
				if c > modulus/2 {
					v = int64(c) - int64(modulus)
				}
				if math.Abs(float64(v)-coefficients[i]*(1<<logScale)) > 1 {
					t.Fatalf("%v %s: coefficient %d is %g, lattigo's %g", e, p.Name, i, coefficients[i], float64(v)/(1<<logScale))
				}
			}
			// Their decoder opens our polynomial.
			for i, c := range coefficients {
				v := int64(math.Round(c * (1 << logScale)))
				poly.Coeffs[0][i] = uint64(v + int64(modulus)&(v>>63))
			}
			q.RingQ().NTT(poly, poly)
			theirs, ours := make([]float64, len(values)), make([]float64, len(values))
			if err := encoder.Decode(plain, theirs); err != nil {
				t.Fatal(err)
			}
			s.Extract(ours, coefficients)
			for i, v := range values {
				if math.Abs(theirs[i]-v) > 1e-6 || math.Abs(ours[i]-v) > 1e-12 {
					t.Fatalf("%v %s: slot %d is %g, lattigo reads %g, we %g", e, p.Name, i, v, theirs[i], ours[i])
				}
			}
		}
	}
}

// TestSlotsAreValuesAtRoots: a slot is the polynomial's value at a root of
// unity; no coefficient exceeds the largest value; the error of a slot is at
// most N times that of a coefficient.
func TestSlotsAreValuesAtRoots(t *testing.T) {
	p, err := params.ByName("n2048-q52")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range bothSlots {
		s := NewSlots(p, e)
		rng := rand.New(rand.NewPCG(9, uint64(e)))
		values, coefficients := make([]float64, s.Values()), make([]float64, p.N())
		for i := range values {
			values[i] = 1 - 2*float64(rng.IntN(2))
		}
		s.Embed(coefficients, values)
		for i, c := range coefficients {
			if math.Abs(c) > 1+1e-9 {
				t.Fatalf("%v: coefficient %d is %g", e, i, c)
			}
		}
		for _, i := range []int{0, 1, 77, s.Values() - 1} {
			k, m := s.Point(i)
			value := complex(0, 0)
			for d, c := range coefficients {
				x := cmplx.Exp(complex(0, 2*math.Pi*float64(k*d%m)/float64(m)))
				value += complex(c, 0) * x
				if e == params.SlotsReal && d > 0 {
					value += complex(c, 0) * cmplx.Conj(x)
				}
			}
			if math.Abs(real(value)-values[i]) > 1e-9 {
				t.Fatalf("%v: slot %d is %g, the value there %g", e, i, values[i], real(value))
			}
		}
	}
}

// TestSlotsDecryptWithLattigo: lattigo's decryptor and decoder open what we
// encrypt in slots, once the public offset is taken off.
func TestSlotsDecryptWithLattigo(t *testing.T) {
	p, err := params.ByName("n4096-q102")
	if err != nil {
		t.Fatal(err)
	}
	s, err := params.NewScheme(params.Choice{Preset: p.Name, Mode: params.SharedKey, Bits: 16, Clients: 4, Weight: 1, Rounding: params.NearestEven, Encoding: params.Slots})
	if err != nil {
		t.Fatal(err)
	}
	var nonce [32]byte
	secret, public, err := GenerateKeyPair(p, nonce, Seed{1})
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewPublicKeyEncryptor(s, testDigest, nonce, public, Seed{2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	values, coefficients := make([]float64, p.N()/2), make([]float64, p.N())
	for i := range values {
		values[i] = math.Sin(float64(i))
	}
	NewSlots(p, params.Slots).Embed(coefficients, values)
	words := [][]uint64{make([]uint64, p.N()), make([]uint64, p.N())}
	for i, c := range coefficients {
		words[0][i] = uint64(int64(math.RoundToEven(c*float64(s.SlotHalf()))) + s.SlotHalf())
	}
	x, h := newPeer(t, p), wholeHeader(s, 5)
	b := make([]byte, h.Size())
	if err := e.Encrypt(b, h, words); err != nil {
		t.Fatal(err)
	}
	plain := rlwe.NewDecryptor(x.params, x.key(secret)).DecryptNew(x.ciphertext(t, b, h, nil)).Value
	q, err := ckks.NewParametersFromLiteral(ckks.ParametersLiteral{LogN: p.LogN, Q: p.Primes, LogDefaultScale: 40})
	if err != nil {
		t.Fatal(err)
	}
	offset := q.RingQ().NewPoly()
	for j, prime := range p.Primes {
		for i := range offset.Coeffs[j] {
			offset.Coeffs[j][i] = uint64(s.SlotHalf()) << s.LogDelta % prime
		}
	}
	q.RingQ().NTT(offset, offset)
	q.RingQ().Sub(plain, offset, plain)
	pt := ckks.NewPlaintext(q, q.MaxLevel())
	pt.Value = plain
	pt.Scale = rlwe.NewScale(math.Ldexp(float64(s.SlotHalf()), s.LogDelta))
	got := make([]float64, len(values))
	if err := ckks.NewEncoder(q).Decode(pt, got); err != nil {
		t.Fatal(err)
	}
	for i, v := range values {
		if math.Abs(got[i]-v) > 1.0/float64(s.Half()) {
			t.Fatalf("slot %d: %g, want %g", i, got[i], v)
		}
	}
}
