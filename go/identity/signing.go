package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cryptflow/cryptflow/go/errs"
)

// NewSigning draws an Ed25519 signing key, separate from TLS, into a new PEM
// file (PKCS #8) that its owner alone can read. It refuses to replace a file.
func NewSigning(path string) (ed25519.PrivateKey, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s exists and is never replaced; choose another name, or print its public half with \"cryptflow ca show\": %w", path, errs.ErrArgument)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("drawing a signing key: %w", errs.ErrInternal)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("writing a signing key: %w", errs.ErrInternal)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the signing key's folder: %v: %w", err, errs.ErrConfig)
	}
	if err := writeNew(path, 0o600, &pem.Block{Type: "PRIVATE KEY", Bytes: raw}); err != nil {
		return nil, err
	}
	return key, nil
}

// OpenSigning reads a signing key and draws it when the file does not exist
// and create is set.
func OpenSigning(path string, create bool) (ed25519.PrivateKey, error) {
	if _, err := os.Stat(path); create && errors.Is(err, fs.ErrNotExist) {
		return NewSigning(path)
	}
	der, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s holds no Ed25519 key: %w", path, errs.ErrConfig)
	}
	return key, nil
}

// SigningName is a signing key's public half in hexadecimal, as
// configurations and profiles name it.
func SigningName(key ed25519.PrivateKey) string {
	return hex.EncodeToString(key.Public().(ed25519.PublicKey))
}
