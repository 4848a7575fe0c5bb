// Package ckks makes and opens ciphertexts: RLWE ciphertexts over lattigo's
// ring, of one polynomial under a key of the client's own (sum-key) or of two
// under a public key (shared-key). Plaintexts are polynomials of wide
// integers; what their bits mean is the business of package encoding.
//
// # Security
//
// Secrets and errors are drawn from a discrete Gaussian of width
// [params.Sigma] in constant time and expanded from seeds, so that the same
// seeds give the same bytes. Two different plaintexts must never be encrypted
// under one (key seed, noise seed, specification, chunk): whoever holds both
// learns their difference. Package seal sees to it.
//
// Sums are opened exactly or not at all: residual noise above the bound is
// ErrDecrypt. The bounds and their failure probabilities are in docs/spec.md,
// §7.
//
// # Ownership
//
// An [Encryptor] or [Decryptor] is used by one goroutine at a time and
// allocates nothing once made. This is the only package that imports lattigo.
package ckks

import (
	"fmt"
	"math/big"
	"math/bits"
	"sync"

	"github.com/tuneinsight/lattigo/v5/ring"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/kernel"
	"github.com/cryptflow/cryptflow/go/params"
)

// maxPrimes is the largest number of primes of a preset, and so of 64-bit
// words of a plaintext coefficient.
const maxPrimes = 4

// field is one prime and what arithmetic modulo it needs.
type field struct {
	q    uint64
	qInv uint64 // q^-1 modulo 2^64, for Montgomery products
	r2   uint64 // 2^128 modulo q
	c    uint64 // 2^Width modulo q: small, as q lies just below 2^Width
	sub  *ring.SubRing
	fast *kernel.Inverse // nil: lattigo's
	ntt  *kernel.Forward // nil: lattigo's

	limb *kernel.One  // times 2^Width; nil: portable
	join *kernel.Join // in the second prime; nil: portable
}

// inverse does the inverse transform of p in place.
func (f *field) inverse(p []uint64) {
	if f.fast != nil {
		f.fast.Transform(p)
		return
	}
	f.sub.INTT(p, p)
}

// forward does the transform of p, of residues below q, in place.
func (f *field) forward(p []uint64) {
	if f.ntt != nil {
		f.ntt.Transform(p)
		return
	}
	f.sub.NTT(p, p)
}

// context is what all keys and ciphertexts of a preset share. It is never
// modified once made.
type context struct {
	*params.Preset
	fields []field
	q      [maxPrimes]uint64 // Π q_j in words
	// inverse[j][i] is q_i^-1 modulo q_j, i < j, in Montgomery form.
	inverse [maxPrimes][maxPrimes]uint64
	digits  *kernel.Digits // of four primes; nil: portable
}

var contexts struct {
	sync.Mutex
	byID map[params.PresetID]*context
}

// contextOf makes the context of a preset once.
func contextOf(p *params.Preset) (*context, error) {
	contexts.Lock()
	defer contexts.Unlock()
	if c := contexts.byID[p.ID]; c != nil {
		return c, nil
	}
	c, err := newContext(p)
	if err != nil {
		return nil, err
	}
	if contexts.byID == nil {
		contexts.byID = map[params.PresetID]*context{}
	}
	contexts.byID[p.ID] = c
	return c, nil
}

func newContext(p *params.Preset) (*context, error) {
	if err := params.CheckSecurity(p.LogN, params.GaussianSecret, params.Sigma, p.Q()); err != nil {
		return nil, err
	}
	if len(p.Primes) > maxPrimes {
		return nil, fmt.Errorf("%s has more than %d primes: %w", p.Name, maxPrimes, errs.ErrParameters)
	}
	r, err := ring.NewRing(p.N(), p.Primes)
	if err != nil {
		return nil, fmt.Errorf("ring of %s: %v: %w", p.Name, err, errs.ErrInternal)
	}
	c := &context{Preset: p}
	var inverse [maxPrimes][maxPrimes]uint64 // plain
	words(p.Q(), c.q[:])
	for j, q := range p.Primes {
		s := r.SubRings[j]
		f := field{q: q, qInv: s.MRedConstant, c: uint64(1)<<p.Width - q, sub: s}
		f.r2 = new(big.Int).Mod(new(big.Int).Lsh(big.NewInt(1), 128), new(big.Int).SetUint64(q)).Uint64()
		// The order of lattigo's transform puts ψ itself in the middle of its
		// bit-reversed table of powers.
		if psi := f.mul(s.RootsForward[p.N()/2], 1); psi != p.Psi[j] {
			return nil, fmt.Errorf("%s: prime %d has another root of unity than the specification: %w", p.Name, j, errs.ErrInternal)
		}
		if bits.Len64(f.c) > 21 || p.Width > 52 {
			return nil, fmt.Errorf("%s: prime %d is too far below 2^%d for the reduction: %w", p.Name, j, p.Width, errs.ErrInternal)
		}
		roots := make([]uint64, p.N())
		for i, w := range s.RootsBackward {
			roots[i] = f.mul(w, 1)
		}
		f.fast = kernel.NewInverse(q, roots, f.mul(s.NInv, 1))
		for i, w := range s.RootsForward {
			roots[i] = f.mul(w, 1)
		}
		f.ntt = kernel.NewForward(q, roots)
		f.limb = kernel.NewOne(q, f.c)
		for i := range j {
			inv := new(big.Int).ModInverse(new(big.Int).SetUint64(p.Primes[i]), new(big.Int).SetUint64(q))
			inverse[j][i] = inv.Uint64()
			c.inverse[j][i] = f.mul(inverse[j][i], f.r2)
			if i == 0 {
				f.join = kernel.NewJoin(p.Primes[0], q, inv.Uint64())
			}
		}
		c.fields = append(c.fields, f)
	}
	if len(p.Primes) == maxPrimes {
		c.digits = kernel.NewDigits([maxPrimes]uint64(p.Primes), inverse)
	}
	return c, nil
}

// words writes v to w, least significant word first.
func words(v *big.Int, w []uint64) {
	rest, mask := new(big.Int).Set(v), new(big.Int).SetUint64(1<<64-1)
	for i := range w {
		w[i] = new(big.Int).And(rest, mask).Uint64()
		rest.Rsh(rest, 64)
	}
}

// mul is x·y·2^-64 modulo q, for x·y < 2^64·q: Montgomery, constant time.
func (f *field) mul(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x, y)
	t, _ := bits.Mul64(lo*f.qInv, f.q)
	return below(hi-t+f.q, f.q)
}

// below subtracts q from r < 2q when r is not below it, without a branch.
func below(r, q uint64) uint64 {
	r -= q
	return r + q&uint64(int64(r)>>63)
}

// product writes the products of x and y·2^-64 to dst; dst may be x.
func (f *field) product(dst, x, y []uint64) {
	q, qInv := f.q, f.qInv
	x, y = x[:len(dst)], y[:len(dst)]
	for i := range dst {
		hi, lo := bits.Mul64(x[i], y[i])
		t, _ := bits.Mul64(lo*qInv, q)
		dst[i] = below(hi-t+q, q)
	}
}

// load writes the small signed coefficients to dst, in the NTT domain and,
// for Montgomery products, times 2^64.
func (f *field) load(dst []uint64, small []int32) {
	for i, v := range small {
		dst[i] = uint64(int64(v) + int64(f.q)&(int64(v)>>63))
	}
	f.forward(dst)
	for i, v := range dst {
		dst[i] = f.mul(v, f.r2)
	}
}

// factor is a polynomial in the NTT domain that others are multiplied by.
type factor struct {
	montgomery []uint64        // times 2^64
	fast       *kernel.Factors // nil: montgomery is used
}

// Runner calls do for every k below n, at the same time where it can. It
// returns when all calls have, or an error when one did not. nil makes one
// call after the other.
type Runner func(n int, do func(k int)) error

func (run Runner) all(n int, do func(k int)) error {
	if run != nil {
		return run(n, do)
	}
	for k := range n {
		do(k)
	}
	return nil
}

// factors loads a small polynomial for every prime.
func (c *context) factors(small []int32, run Runner) ([]factor, error) {
	out, planes := make([]factor, len(c.fields)), c.planes()
	err := run.all(len(out), func(j int) { out[j] = c.fields[j].factor(planes[j], small) })
	return out, err
}

// factor loads a small polynomial for one prime, into plane.
func (f *field) factor(plane []uint64, small []int32) factor {
	plain := make([]uint64, len(plane))
	defer clear(plain)
	f.load(plane, small)
	for i, v := range plane {
		plain[i] = f.mul(v, 1)
	}
	return factor{plane, kernel.NewFactors(f.q, plain)}
}

// planes makes one polynomial per prime.
func (c *context) planes() [][]uint64 {
	all := make([]uint64, len(c.fields)*c.N())
	out := make([][]uint64, len(c.fields))
	for j := range out {
		out[j] = all[j*c.N() : (j+1)*c.N() : (j+1)*c.N()]
	}
	return out
}
