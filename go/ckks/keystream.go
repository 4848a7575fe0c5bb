package ckks

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/kernel"
)

// Purposes separate the keystreams of one key. They are part of the wire
// format: docs/spec.md, §2.
const (
	purposeA         = 1 // public polynomial; the index is that of the prime
	purposeSecret    = 2
	purposeError     = 3 // e, or e0 of two components
	purposeError1    = 4
	purposeEphemeral = 5 // u of public-key encryption
	purposeRounding  = 6
	purposeKeyError  = 7 // error of a public key
)

const (
	tagA     = "cryptflow/v1/a"
	tagKey   = "cryptflow/v1/key"
	tagNoise = "cryptflow/v1/noise"
)

// derive is H(tag ‖ 0x00 ‖ parts), for parts of fixed length.
func derive(tag string, parts ...[]byte) (key [32]byte) {
	h := sha256.New()
	h.Write([]byte(tag))
	h.Write([]byte{0})
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(key[:0])
	return key
}

// keystream is AES in counter mode with the counter blocks of AES-GCM: block
// i is nonce(12) ‖ be32(i+2). Where there is no kernel, GCM's Seal over zeros
// yields those bytes without the allocations of a stream; its tag is thrown
// away. One goroutine uses a
// keystream at a time.
type keystream struct {
	fast  *kernel.Counter // nil: aead
	aead  cipher.AEAD
	nonce [12]byte
}

// newKeystream takes a key of 16 or 32 bytes.
func newKeystream(key []byte) (*keystream, error) {
	if c := kernel.NewCounter(key); c != nil {
		return &keystream{fast: c}, nil
	}
	return newPlainKeystream(key)
}

// newPlainKeystream is the portable form.
func newPlainKeystream(key []byte) (*keystream, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("keystream: %v: %w", err, errs.ErrInternal)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("keystream: %v: %w", err, errs.ErrInternal)
	}
	return &keystream{aead: aead}, nil
}

// fork is another keystream of the same key.
func (k *keystream) fork() *keystream {
	other := &keystream{aead: k.aead}
	if k.fast != nil {
		fast := *k.fast
		other.fast = &fast
	}
	return other
}

// tail is the room that a buffer for fill needs behind its n bytes.
const tail = 16

// fill returns the first n bytes of the stream for (chunk, index, purpose),
// in buf, which has n+tail bytes. GCM's counter has 32 bits: n is far below
// 64 GiB.
func (k *keystream) fill(buf []byte, n int, chunk, index, purpose uint32) []byte {
	binary.LittleEndian.PutUint32(k.nonce[0:], chunk)
	binary.LittleEndian.PutUint32(k.nonce[4:], index)
	binary.LittleEndian.PutUint32(k.nonce[8:], purpose)
	in := buf[:n]
	if k.fast != nil {
		k.fast.Fill(in, &k.nonce)
		return in
	}
	clear(in)
	return k.aead.Seal(in[:0], k.nonce[:], in, nil)[:n]
}
