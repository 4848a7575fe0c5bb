package ckks

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

// Decryptor opens the sums of one round.
type Decryptor struct {
	*context
	scheme *params.Scheme
	public *expander
	secret []factor
	sums   [][]uint64
	bound  uint64
}

// NewDecryptor makes a decryptor for sums of terms ciphertexts whose squared
// public weights sum to squares. In sum-key the secret is that of
// [SumSecrets] for the same clients; in shared-key it is the round's. run
// prepares it, prime by prime.
func NewDecryptor(s *params.Scheme, specDigest [32]byte, secret []int32, terms uint32, squares uint64, run Runner) (*Decryptor, error) {
	c, err := contextOf(s.Preset)
	if err != nil {
		return nil, err
	}
	if s.Mode == params.SharedKey {
		terms = 1
	}
	if err := checkSecret(s.Preset, secret, terms); err != nil {
		return nil, err
	}
	d := &Decryptor{context: c, scheme: s, sums: c.planes(), bound: s.NoiseBound(squares)}
	if d.bound > uint64(1)<<(s.LogDelta-1) {
		return nil, fmt.Errorf("squared weights of %d are more than the scheme carries: %w", squares, errs.ErrParameters)
	}
	if d.public, err = newExpander(&specDigest, c.N()); err != nil {
		return nil, err
	}
	if d.secret, err = c.factors(secret, run); err != nil {
		return nil, err
	}
	return d, nil
}

// Fork makes a decryptor of the same round for another goroutine; it shares
// what is never modified.
func (d *Decryptor) Fork() *Decryptor {
	other := *d
	other.public, other.sums = d.public.fork(), d.planes()
	return &other
}

// Decrypt opens the frame b, which must have the header want, into words: the
// sum of the plaintexts of its terms, times their weights. It returns
// ErrDecrypt when any residual error exceeds the bound, as it does under a
// wrong key; words are meaningless then.
func (d *Decryptor) Decrypt(words [][]uint64, b []byte, want frame.Header) error {
	if want.Preset != d.ID || int(want.Components) != d.scheme.Components {
		return fmt.Errorf("decrypting a frame of another scheme: %w", errs.ErrFrameContext)
	}
	if _, err := frame.Expect(b, want); err != nil {
		return err
	}
	n, body := int(want.Coefficients), b[frame.HeaderSize:]
	first, second := frame.BlockSize(n, d.Width), frame.BlockSize(d.N(), d.Width)
	mask := body[len(d.fields)*first:]
	for j := range d.fields {
		f, poly := &d.fields[j], d.sums[j]
		if want.Components == 1 {
			d.public.multiply(poly, &d.secret[j], want.Chunk, j, f, d.Width)
		} else {
			if !frame.Unpack(poly, mask[:second], d.Width, f.q) {
				return frame.Noncanonical(1, j)
			}
			mask = mask[second:]
			f.forward(poly)
			f.product(poly, poly, d.secret[j].montgomery)
		}
		f.inverse(poly)
		if !frame.UnpackAdd(poly[:n], body[:first], d.Width, f.q) {
			return frame.Noncanonical(0, j)
		}
		body = body[first:]
	}
	if !d.join(words, d.sums, n, d.scheme.LogDelta, d.bound) {
		return fmt.Errorf("chunk %d: residual noise exceeds %d: %w", want.Chunk, d.bound, errs.ErrDecrypt)
	}
	return nil
}
