package ckks

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

// secretOf expands the secret polynomial of a key seed.
func secretOf(p *params.Preset, base *[32]byte, seed *Seed) ([]int32, error) {
	stream, err := keyStream(base, seed)
	if err != nil {
		return nil, err
	}
	s := make([]int32, p.N())
	gaussian(s, stream.fill(make([]byte, 8*p.N()+tail), 8*p.N(), 0, 0, purposeSecret))
	return s, nil
}

func keyStream(base *[32]byte, seed *Seed) (*keystream, error) {
	key := derive(tagKey, seed[:], base[:])
	return newKeystream(key[:])
}

// SumSecrets is S = Σ s_i of the secrets that the key seeds expand to under a
// specification: the only key that opens the sum of their ciphertexts
// (docs/spec.md, §3).
func SumSecrets(p *params.Preset, specDigest [32]byte, seeds []Seed) ([]int32, error) {
	if len(seeds) == 0 || len(seeds) > params.MaxClients {
		return nil, fmt.Errorf("the sum of %d secrets: %w", len(seeds), errs.ErrArgument)
	}
	sum := make([]int32, p.N())
	for i := range seeds {
		s, err := secretOf(p, &specDigest, &seeds[i])
		if err != nil {
			return nil, err
		}
		for k, v := range s {
			sum[k] += v
		}
	}
	return sum, nil
}

// GenerateKeyPair makes the key pair of a round in shared-key: the secret
// polynomial s and the frame of b = −a·s + e. The public half a is expanded
// from the nonce, which encryptors need as well.
func GenerateKeyPair(p *params.Preset, nonce [32]byte, seed Seed) (secret []int32, publicKey []byte, err error) {
	c, err := contextOf(p)
	if err != nil {
		return nil, nil, err
	}
	if secret, err = secretOf(p, &nonce, &seed); err != nil {
		return nil, nil, err
	}
	x, err := newExpander(&nonce, p.N())
	if err != nil {
		return nil, nil, err
	}
	stream, err := keyStream(&nonce, &seed)
	if err != nil {
		return nil, nil, err
	}
	e := make([]int32, p.N())
	gaussian(e, stream.fill(make([]byte, 8*p.N()+tail), 8*p.N(), 0, 0, purposeKeyError))
	h := publicKeyHeader(p, &nonce)
	publicKey = h.Append(make([]byte, 0, h.Size()))[:h.Size()]
	body := publicKey[frame.HeaderSize:]
	a, s := make([]uint64, p.N()), make([]uint64, p.N())
	for j := range c.fields {
		f := &c.fields[j]
		x.expand(a, 0, j, f.q, p.Width)
		f.load(s, secret)
		f.product(a, a, s)
		f.inverse(a)
		for i, v := range a {
			b := uint64(int64(f.q-v) + int64(e[i]))
			b += f.q & uint64(int64(b)>>63)
			a[i] = below(b, f.q)
		}
		frame.Pack(body, a, p.Width)
		body = body[frame.BlockSize(p.N(), p.Width):]
	}
	return secret, publicKey, nil
}

func publicKeyHeader(p *params.Preset, nonce *[32]byte) frame.Header {
	return frame.Header{
		Preset: p.ID, Encoding: params.PublicKey, Components: 1, Key: [frame.KeySize]byte(nonce[:frame.KeySize]),
		Terms: 1, Weight: 1, Coefficients: uint32(p.N()),
	}
}

// CheckPublicKey says whether publicKey is a canonical frame for the nonce.
func CheckPublicKey(p *params.Preset, nonce [32]byte, publicKey []byte) error {
	if err := frame.Check(publicKey, publicKeyHeader(p, &nonce)); err != nil {
		return fmt.Errorf("public key: %w", err)
	}
	return nil
}

// checkSecret says whether secret can be the sum of terms secrets.
func checkSecret(p *params.Preset, secret []int32, terms uint32) error {
	if len(secret) != p.N() {
		return fmt.Errorf("a secret of %d coefficients for %s, which has %d: %w", len(secret), p.Name, p.N(), errs.ErrArgument)
	}
	bound := int64(largest) * int64(terms)
	for _, v := range secret {
		if int64(v) > bound || int64(v) < -bound {
			return fmt.Errorf("a secret larger than %d clients have together: %w", terms, errs.ErrDecrypt)
		}
	}
	return nil
}
