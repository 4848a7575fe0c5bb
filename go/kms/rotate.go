package kms

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cryptflow/cryptflow/go/errs"
)

// nextSuffix names the key-encryption key that a rotation is moving to.
const nextSuffix = ".next"

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

// replaceShredded moves a file to the place of another, whose bytes it overwrites
// once it has no name any more.
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
	if err := replace(from, to); err != nil {
		return err
	}
	if _, err := f.WriteAt(make([]byte, info.Size()), 0); err != nil {
		return err
	}
	return f.Sync()
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
