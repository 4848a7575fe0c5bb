package task

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Digest is the SHA-256 of an object's canonical bytes, which begin with the
// object's domain tag.
type Digest [32]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short is the first 12 hexadecimal digits, for people.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// ParseDigest is the inverse of String.
func ParseDigest(s string) (d Digest, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(d) {
		return d, fmt.Errorf("%q is not a digest: %w", s, errs.ErrArgument)
	}
	copy(d[:], b)
	return d, nil
}

// Object is anything with canonical bytes.
type Object interface{ Canonical() []byte }

// DigestOf hashes an object's canonical bytes.
func DigestOf(o Object) Digest { return sha256.Sum256(o.Canonical()) }

// Key is an Ed25519 public key of a service or an admin.
type Key [32]byte

func (k Key) String() string { return hex.EncodeToString(k[:]) }

// Signed carries canonical bytes and one Ed25519 signature over them. The
// domain tag inside the bytes keeps signatures of different objects apart.
type Signed struct {
	Bytes     []byte
	Signature []byte
}

// Sign signs an object's canonical bytes.
func Sign(o Object, key ed25519.PrivateKey) Signed {
	b := o.Canonical()
	return Signed{Bytes: b, Signature: ed25519.Sign(key, b)}
}

// Verify reports ErrSignature unless key signed the bytes.
func (s Signed) Verify(key Key) error {
	if len(s.Signature) != ed25519.SignatureSize || !ed25519.Verify(key[:], s.Bytes, s.Signature) {
		return fmt.Errorf("key %s…: %w", key.String()[:12], errs.ErrSignature)
	}
	return nil
}

// Digest is the digest of the signed object.
func (s Signed) Digest() Digest { return sha256.Sum256(s.Bytes) }
