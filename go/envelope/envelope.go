// Package envelope seals small secrets to one receiver with HPKE (RFC 9180):
// ML-KEM-768 with X25519, HKDF-SHA256, AES-256-GCM, over Go's crypto/hpke. A
// key seed travels to the key service in one envelope, the key of a sum to a
// client in another.
//
// # Security
//
// An envelope is bound to its purpose (HPKE's info) and to a context (its
// associated data); it opens under both or not at all. One envelope carries
// one message: no context is kept.
//
// # Compatibility
//
// An envelope is the encapsulated key followed by the ciphertext.
package envelope

import (
	"crypto/hpke"
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Sizes in bytes.
const (
	PublicKeySize    = 1216
	encapsulatedSize = 1120
	tagSize          = 16
	// Overhead is what an envelope has beyond its message.
	Overhead = encapsulatedSize + tagSize
)

// Purposes keep envelopes of different kinds apart.
const (
	Deposit = "cryptflow/v1/deposit"
	Release = "cryptflow/v1/release"
)

func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// Key is a receiver's private key.
type Key struct{ private hpke.PrivateKey }

// NewKey draws a key.
func NewKey() (*Key, error) {
	kem, _, _ := suite()
	k, err := kem.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("drawing an HPKE key: %w", errs.ErrInternal)
	}
	return &Key{k}, nil
}

// ParseKey is the inverse of Secret.
func ParseKey(secret []byte) (*Key, error) {
	kem, _, _ := suite()
	k, err := kem.NewPrivateKey(secret)
	if err != nil {
		return nil, fmt.Errorf("an HPKE private key: %w", errs.ErrCanonical)
	}
	return &Key{k}, nil
}

// Public is the key that others seal to.
func (k *Key) Public() []byte { return k.private.PublicKey().Bytes() }

// Secret is the private key's serialisation, for keeping it wrapped.
func (k *Key) Secret() ([]byte, error) {
	b, err := k.private.Bytes()
	if err != nil {
		return nil, fmt.Errorf("serialising an HPKE key: %w", errs.ErrInternal)
	}
	return b, nil
}

// String does not reveal the key.
func (*Key) String() string { return "key(redacted)" }

// CheckPublic says whether b is a public key that messages can be sealed to. It
// seals one: some keys parse, such as those whose curve point has a low order,
// and fail when they are used.
func CheckPublic(b []byte) error {
	_, err := Seal(b, "cryptflow/v1/check", nil, nil)
	return err
}

func public(b []byte) (hpke.PublicKey, error) {
	kem, _, _ := suite()
	if len(b) != PublicKeySize {
		return nil, fmt.Errorf("an HPKE public key of %d bytes, want %d: %w", len(b), PublicKeySize, errs.ErrCanonical)
	}
	p, err := kem.NewPublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("an HPKE public key: %w", errs.ErrCanonical)
	}
	return p, nil
}

// Seal makes an envelope to the holder of a public key.
func Seal(to []byte, purpose string, context, message []byte) ([]byte, error) {
	p, err := public(to)
	if err != nil {
		return nil, err
	}
	_, kdf, aead := suite()
	enc, sender, err := hpke.NewSender(p, kdf, aead, []byte(purpose))
	if err != nil {
		return nil, fmt.Errorf("an HPKE public key that nothing can be sealed to: %w", errs.ErrCanonical)
	}
	box, err := sender.Seal(context, message)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", errs.ErrInternal)
	}
	return append(enc, box...), nil
}

// Open returns the message of an envelope, or ErrCanonical when it was not
// sealed to this key for this purpose and context.
func (k *Key) Open(purpose string, context, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, fmt.Errorf("an envelope of %d bytes: %w", len(sealed), errs.ErrCanonical)
	}
	_, kdf, aead := suite()
	r, err := hpke.NewRecipient(sealed[:encapsulatedSize], k.private, kdf, aead, []byte(purpose))
	if err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", errs.ErrCanonical)
	}
	message, err := r.Open(context, sealed[encapsulatedSize:])
	if err != nil {
		return nil, fmt.Errorf("the envelope was not sealed to this key for this purpose: %w", errs.ErrCanonical)
	}
	return message, nil
}
