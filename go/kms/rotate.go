package kms

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cryptflow/cryptflow/go/errs"
)

// nextSuffix names the key-encryption key that a rotation is moving to.
const nextSuffix = ".next"

// retiredSuffix names the one that it moved from, until its bytes are overwritten.
const retiredSuffix = ".old"

// RotateKEK draws a new key-encryption key, wraps every key of the vault under
// it, and destroys the old one. The service must not run. Interrupted at any
// step, it goes on when it is called again; the service refuses to start in
// between. It returns how many keys were wrapped anew.
func RotateKEK(path, keys string) (int, error) {
	old, err := readKEK(path)
	if err != nil {
		return 0, err
	}
	next := path + nextSuffix
	if _, err := os.Lstat(next); errors.Is(err, fs.ErrNotExist) {
		// One that was interrupted at its last step has only the old key to destroy.
		if err := shred(path + retiredSuffix); err == nil {
			v, err := newVault(keys, old)
			if err != nil {
				return 0, err
			}
			names, err := v.names()
			return len(names), err
		} else if !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("destroying the old key-encryption key: %v: %w", err, errs.ErrInternal)
		}
		if err := drawKEK(next); err != nil {
			return 0, err
		}
	}
	fresh, err := readKEK(next)
	if err != nil {
		return 0, err
	}
	v, err := newVault(keys, old)
	if err != nil {
		return 0, err
	}
	names, err := v.names()
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if err := v.rewrap(name, fresh); err != nil {
			return 0, fmt.Errorf("%w; nothing is lost, call it again", err)
		}
	}
	if err := replaceShredded(next, path); err != nil {
		return 0, fmt.Errorf("replacing the key-encryption key: %v: %w", err, errs.ErrInternal)
	}
	return len(names), nil
}

// rewrap wraps one key under another key-encryption key, unless it is already.
func (v *vault) rewrap(name string, fresh Wrapper) error {
	path := v.path(name)
	wrapped, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a wrapped key: %v: %w", err, errs.ErrInternal)
	}
	if secret, err := fresh.Unwrap(bound(name), wrapped); err == nil {
		clear(secret)
		return nil
	}
	secret, err := v.wrapper.Unwrap(bound(name), wrapped)
	if err != nil {
		return err
	}
	defer clear(secret)
	again, err := fresh.Wrap(bound(name), secret)
	if err == nil {
		err = writeFile(path, again)
	}
	if err != nil {
		return fmt.Errorf("wrapping a key anew: %v: %w", err, errs.ErrInternal)
	}
	return nil
}

// replaceShredded moves a file to the place of another, whose bytes it overwrites.
// Meanwhile the other keeps a name, where the file system gives it a second one, so
// that its bytes are found again after an interruption.
func replaceShredded(from, to string) error {
	f, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	retired := to + retiredSuffix
	_ = os.Link(to, retired) // there is one from before, or the file system has none
	if err := replace(from, to); err != nil {
		return err
	}
	if _, err := f.WriteAt(make([]byte, info.Size()), 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Remove(retired); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncFolder(filepath.Dir(to))
}

// drawKEK writes a fresh key-encryption key.
func drawKEK(path string) error {
	kek := make([]byte, kekSize)
	defer clear(kek)
	if _, err := rand.Read(kek); err != nil {
		return fmt.Errorf("drawing the key-encryption key: %w", errs.ErrInternal)
	}
	if err := writeFile(path, kek); err != nil {
		return fmt.Errorf("writing the key-encryption key %s: %v: %w", path, err, errs.ErrConfig)
	}
	return nil
}
