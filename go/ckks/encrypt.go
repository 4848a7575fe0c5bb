package ckks

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

// Encryptor encrypts the chunks of one contribution.
type Encryptor struct {
	*context
	scheme   *params.Scheme
	noise    *keystream
	buf      []byte
	rounding []byte
	small    []int32
	limbs    [][]uint64
	poly     []uint64

	// sum-key
	public *expander
	secret []factor // −s

	// shared-key
	b, a [][]uint64 // the public key, NTT
	u    [][]uint64 // NTT, Montgomery
}

func newEncryptor(s *params.Scheme, specDigest *[32]byte, noise *Seed) (*Encryptor, error) {
	c, err := contextOf(s.Preset)
	if err != nil {
		return nil, err
	}
	key := derive(tagNoise, noise[:], specDigest[:])
	stream, err := newKeystream(key[:])
	if err != nil {
		return nil, err
	}
	e := &Encryptor{context: c, scheme: s, noise: stream}
	e.rooms()
	return e, nil
}

// rooms makes what belongs to one encryptor alone.
func (e *Encryptor) rooms() {
	e.buf = make([]byte, 8*e.N()+tail)
	e.rounding = make([]byte, 4*max(e.scheme.ChunkValues(), e.N())+tail)
	e.small = make([]int32, e.N())
	e.limbs = e.planes()
	e.poly = make([]uint64, e.N())
}

// Fork makes an encryptor of the same contribution for another goroutine: it
// gives the same frames, and shares what is never modified.
func (e *Encryptor) Fork() *Encryptor {
	other := *e
	other.noise = e.noise.fork()
	other.rooms()
	if e.public != nil {
		other.public = e.public.fork()
	}
	if e.u != nil {
		other.u = e.planes()
	}
	return &other
}

// NewSumKeyEncryptor makes an encryptor under the secret that the key seed
// expands to: c = −a·s + e + Δ·m, with a from the specification's digest
// (docs/spec.md, §3). run prepares the secret, prime by prime.
func NewSumKeyEncryptor(s *params.Scheme, specDigest [32]byte, key, noise Seed, run Runner) (*Encryptor, error) {
	if s.Mode != params.SumKey {
		return nil, fmt.Errorf("a sum-key encryptor for a %v scheme: %w", s.Mode, errs.ErrParameters)
	}
	e, err := newEncryptor(s, &specDigest, &noise)
	if err != nil {
		return nil, err
	}
	if e.public, err = newExpander(&specDigest, e.N()); err != nil {
		return nil, err
	}
	secret, err := secretOf(s.Preset, &specDigest, &key)
	if err != nil {
		return nil, err
	}
	for i := range secret {
		secret[i] = -secret[i]
	}
	defer clear(secret)
	if e.secret, err = e.factors(secret, run); err != nil {
		return nil, err
	}
	return e, nil
}

// NewPublicKeyEncryptor makes an encryptor under a public key of
// [GenerateKeyPair]: (b·u + e0 + Δ·m, a·u + e1). run prepares the key, prime by prime.
func NewPublicKeyEncryptor(s *params.Scheme, specDigest, nonce [32]byte, publicKey []byte, noise Seed, run Runner) (*Encryptor, error) {
	if s.Mode != params.SharedKey {
		return nil, fmt.Errorf("a public-key encryptor for a %v scheme: %w", s.Mode, errs.ErrParameters)
	}
	if err := CheckPublicKey(s.Preset, nonce, publicKey); err != nil {
		return nil, err
	}
	e, err := newEncryptor(s, &specDigest, &noise)
	if err != nil {
		return nil, err
	}
	x, err := newExpander(&nonce, e.N())
	if err != nil {
		return nil, err
	}
	e.a, e.b, e.u = e.planes(), e.planes(), e.planes()
	body, size := publicKey[frame.HeaderSize:], frame.BlockSize(e.N(), e.Width)
	err = run.all(len(e.fields), func(j int) {
		f := &e.fields[j]
		x.fork().expand(e.a[j], 0, j, f.q, e.Width)
		frame.Unpack(e.b[j], body[j*size:][:size], e.Width, f.q) // checked above
		f.forward(e.b[j])
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Rounding returns the keystream for stochastic rounding of n values, or
// coefficients, of a chunk, four bytes a value, valid until the next call.
func (e *Encryptor) Rounding(chunk uint32, n int) []byte {
	return e.noise.fill(e.rounding, 4*n, chunk, 0, purposeRounding)
}

// Encrypt writes to dst, which has h.Size() bytes, the frame with header h of
// the plaintext in words (planes of 64-bit words, least
// significant first; as many as the preset has primes).
//
// The same Encryptor must not encrypt two different plaintexts for one chunk.
func (e *Encryptor) Encrypt(dst []byte, h frame.Header, words [][]uint64) error {
	if len(dst) != h.Size() || h.Preset != e.ID || int(h.Components) != e.scheme.Components {
		return fmt.Errorf("encrypting a frame of %d bytes into %d: %w", h.Size(), len(dst), errs.ErrInternal)
	}
	n := int(h.Coefficients)
	e.split(e.limbs, words, e.whole(n, e.scheme.LogDelta), n, e.scheme.LogDelta)
	h.Append(dst[:0])
	body := dst[frame.HeaderSize:]
	if e.scheme.Mode == params.SumKey {
		gaussian(e.small[:n], e.noise.fill(e.buf, 8*n, h.Chunk, 0, purposeError))
		for j := range e.fields {
			f := &e.fields[j]
			e.public.multiply(e.poly, &e.secret[j], h.Chunk, j, f, e.Width)
			body = e.write(body, f, n, words)
		}
		return nil
	}
	gaussian(e.small, e.noise.fill(e.buf, 8*e.N(), h.Chunk, 0, purposeEphemeral))
	for j := range e.fields {
		e.fields[j].load(e.u[j], e.small)
	}
	gaussian(e.small[:n], e.noise.fill(e.buf, 8*n, h.Chunk, 0, purposeError))
	for j := range e.fields {
		f := &e.fields[j]
		f.product(e.poly, e.b[j], e.u[j])
		body = e.write(body, f, n, words)
	}
	gaussian(e.small, e.noise.fill(e.buf, 8*e.N(), h.Chunk, 0, purposeError1))
	for j := range e.fields {
		f := &e.fields[j]
		f.product(e.poly, e.a[j], e.u[j])
		body = e.write(body, f, e.N(), nil)
	}
	return nil
}

// write brings poly to coefficients, adds the error and the message in words,
// if there is one, and packs the first n residues.
func (e *Encryptor) write(body []byte, f *field, n int, words [][]uint64) []byte {
	f.inverse(e.poly)
	if words != nil {
		f.addMessage(e.poly[:n], words, e.limbs, e.small, e.scheme.LogDelta, e.Width)
	} else {
		for i, v := range e.poly[:n] {
			v += uint64(int64(e.small[i]) + int64(f.q))
			e.poly[i] = below(below(v, f.q), f.q)
		}
	}
	frame.Pack(body, e.poly[:n], e.Width)
	return body[frame.BlockSize(n, e.Width):]
}
