package ckks

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// CheckCanaries says whether coefficients of a chunk that carry zero are under
// the secret of a key seed: with residues of the coefficients from the given
// one on, prime by prime, c + a·s is then an error of the discrete Gaussian,
// the same small integer modulo every prime. Otherwise it returns ErrDeposit.
//
// Under another secret, specification or chunk, c + a·s is that of a random
// ciphertext: k coefficients pass with probability (81/Q)^k, at most 2^-45 for
// one and 2^-365 for eight. Nothing branches on the secret or the errors but
// the answer.
func CheckCanaries(p *params.Preset, specDigest [32]byte, chunk uint32, key Seed, from int, residues [][]uint64) error {
	c, err := contextOf(p)
	if err != nil {
		return err
	}
	if len(residues) != len(c.fields) || from < 0 || len(residues[0]) < 1 || from+len(residues[0]) > p.N() {
		return fmt.Errorf("canaries of %d primes from coefficient %d: %w", len(residues), from, errs.ErrArgument)
	}
	public, err := newExpander(&specDigest, p.N())
	if err != nil {
		return err
	}
	secret, err := secretOf(p, &specDigest, &key)
	if err != nil {
		return err
	}
	defer clear(secret)
	s, poly := make([]uint64, p.N()), make([]uint64, p.N())
	defer clear(s)
	defer clear(poly)
	shifted, bad := make([]uint64, len(residues[0])), uint64(0)
	defer clear(shifted)
	for j := range c.fields {
		f := &c.fields[j]
		if len(residues[j]) != len(shifted) {
			return fmt.Errorf("canaries of several lengths: %w", errs.ErrArgument)
		}
		f.load(s, secret)
		public.multiply(poly, &factor{montgomery: s}, chunk, j, f, p.Width)
		f.inverse(poly)
		for k, v := range residues[j] {
			if v >= f.q {
				return fmt.Errorf("a canary is not below prime %d: %w", j, errs.ErrFrame)
			}
			// e + 40 is the same number up to 80 modulo every prime.
			e := below(below(v+below(poly[from+k], f.q), f.q)+uint64(largest), f.q)
			bad |= (2*uint64(largest) - e) >> 63
			if j == 0 {
				shifted[k] = e
			}
			bad |= e ^ shifted[k]
		}
	}
	if bad != 0 {
		return fmt.Errorf("the contribution is not under its deposited key: %w", errs.ErrDeposit)
	}
	return nil
}
