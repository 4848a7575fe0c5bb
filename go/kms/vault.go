package kms

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Wrapper encrypts keys at rest under a key-encryption key that it holds or
// reaches. Context is authenticated with the key.
type Wrapper interface {
	Wrap(context, secret []byte) ([]byte, error)
	Unwrap(context, wrapped []byte) ([]byte, error)
}

// kekSize is the length of an AES-256 key.
const kekSize = 32

// fileWrapper holds the key-encryption key of a file: AES-256-GCM, a random
// nonce before the ciphertext.
type fileWrapper struct{ aead cipher.AEAD }

// OpenKEK reads the key-encryption key of a file and draws it when the file
// does not exist. Whoever reads the file and the vault reads the keys: keep it
// on another volume than backups.
func OpenKEK(path string) (Wrapper, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("kek: there is no folder %s; make it, mode 700, where no backup reads: %w",
				filepath.Dir(path), errs.ErrConfig)
		}
		if err := drawKEK(path); err != nil {
			return nil, err
		}
	}
	return readKEK(path)
}

// CheckKEK refuses a key-encryption key whose rotation was interrupted.
func CheckKEK(path string) error {
	for _, suffix := range []string{nextSuffix, retiredSuffix} {
		if _, err := os.Lstat(path + suffix); err == nil {
			return fmt.Errorf("the rotation of %s was interrupted; run \"cryptflow kms rotate-kek\" again: %w",
				path, errs.ErrConfig)
		}
	}
	return nil
}

func readKEK(path string) (Wrapper, error) {
	kek, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %v: %w", err, errs.ErrConfig)
	}
	defer clear(kek)
	if len(kek) != kekSize {
		return nil, fmt.Errorf("%s has %d bytes, a key-encryption key has %d: %w", path, len(kek), kekSize, errs.ErrConfig)
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", errs.ErrInternal)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", errs.ErrInternal)
	}
	return &fileWrapper{aead}, nil
}

func (w *fileWrapper) Wrap(context, secret []byte) ([]byte, error) {
	return w.aead.Seal(nil, nil, secret, context), nil
}

func (w *fileWrapper) Unwrap(context, wrapped []byte) ([]byte, error) {
	secret, err := w.aead.Open(nil, nil, wrapped, context)
	if err != nil {
		return nil, fmt.Errorf("a wrapped key does not open: is this its key-encryption key?: %w", errs.ErrStorage)
	}
	return secret, nil
}

// vault keeps wrapped keys in files of their own, outside the ledger: a ledger
// restored from a backup brings no key back.
type vault struct {
	folder  string
	wrapper Wrapper
}

const keySuffix = ".key"

func newVault(folder string, w Wrapper) (*vault, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of keys: %v: %w", err, errs.ErrConfig)
	}
	return &vault{folder, w}, nil
}

func (v *vault) path(name string) string { return filepath.Join(v.folder, name+keySuffix) }

func bound(name string) []byte { return []byte("cryptflow/v1/kms-key\x00" + name) }

// put stores a secret durably, replacing what was there.
func (v *vault) put(name string, secret []byte) error {
	wrapped, err := v.wrapper.Wrap(bound(name), secret)
	if err != nil {
		return err
	}
	if err := writeFile(v.path(name), wrapped); err != nil {
		return fmt.Errorf("storing a wrapped key: %v: %w", err, errs.ErrInternal)
	}
	return nil
}

// get returns ErrKeysDestroyed when there is no such key.
func (v *vault) get(name string) ([]byte, error) {
	wrapped, err := os.ReadFile(v.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.ErrKeysDestroyed
	}
	if err != nil {
		return nil, fmt.Errorf("reading a wrapped key: %v: %w", err, errs.ErrInternal)
	}
	return v.wrapper.Unwrap(bound(name), wrapped)
}

// has reports whether there is such a key.
func (v *vault) has(name string) bool {
	_, err := os.Lstat(v.path(name))
	return err == nil
}

// destroy overwrites a key where it lies, and then removes it. Whatever a device
// keeps besides, as flash does, is wrapped.
func (v *vault) destroy(name string) error {
	err := shred(v.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncFolder(v.folder)
	}
	if err != nil {
		return fmt.Errorf("destroying a key: %v: %w", err, errs.ErrInternal)
	}
	return nil
}

// shred overwrites the bytes of a file in place, makes that durable, and removes
// the file. Truncating it first would leave the old bytes in blocks that nobody
// owns.
func shred(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, info.Size()), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}

// names lists the keys there are.
func (v *vault) names() ([]string, error) {
	entries, err := os.ReadDir(v.folder)
	if err != nil {
		return nil, fmt.Errorf("listing keys: %v: %w", err, errs.ErrInternal)
	}
	var out []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), keySuffix); ok {
			out = append(out, name)
		}
	}
	return out, nil
}

// writeFile replaces a file by a whole one and syncs it and its folder.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	return replace(f.Name(), path)
}

// replace renames a file durably.
func replace(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(to))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
