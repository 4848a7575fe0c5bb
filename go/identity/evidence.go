package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
)

// evidence keeps signatures by a certificate's key apart from those of TLS, whose
// own contexts begin with 64 spaces.
const evidence = "cryptflow/v1/evidence\x00"

// SignEvidence signs bytes with the key of the certificate. What is signed shows
// later, without the connection, who said it. Beside the signature by the newest
// certificate there is one by the certificate before it: a connection that was
// made before a renewal still shows that one.
func (c *Credentials) SignEvidence(b []byte) (signatures [][]byte, err error) {
	for _, certificate := range []*tls.Certificate{c.current.Load(), c.previous.Load()} {
		if certificate == nil {
			continue
		}
		signer, ok := certificate.PrivateKey.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("the key of %s cannot sign: %w", c.Self, errs.ErrCertificate)
		}
		signature, err := SignEvidence(signer, b)
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, signature)
	}
	return signatures, nil
}

// SignEvidence signs with ECDSA over SHA-256, or Ed25519, whichever the key is of.
func SignEvidence(signer crypto.Signer, b []byte) ([]byte, error) {
	message := append([]byte(evidence), b...)
	var options crypto.SignerOpts = crypto.Hash(0)
	switch signer.Public().(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(message)
		message, options = digest[:], crypto.SHA256
	default:
		return nil, fmt.Errorf("a key that is neither ECDSA nor Ed25519: %w", errs.ErrCertificate)
	}
	signature, err := signer.Sign(rand.Reader, message, options)
	if err != nil {
		return nil, fmt.Errorf("signing with a certificate's key: %w", errs.ErrInternal)
	}
	return signature, nil
}

// VerifyBy reports ErrSignature unless a certificate's key signed the bytes with
// SignEvidence.
func VerifyBy(c *x509.Certificate, b, signature []byte) error {
	message, ok := append([]byte(evidence), b...), false
	switch key := c.PublicKey.(type) {
	case ed25519.PublicKey:
		ok = ed25519.Verify(key, message, signature)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(message)
		ok = ecdsa.VerifyASN1(key, digest[:], signature)
	}
	if !ok {
		return fmt.Errorf("the signature is not that of the caller's certificate: %w", errs.ErrSignature)
	}
	return nil
}
