// Package disk is what the drivers of storage ask of the file system: folders
// that survive power loss, free space, and what an error means.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Mkdir makes a folder of mode 0700 and those above it that are missing. Each
// folder in which an entry was made is synced.
func Mkdir(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	switch info, err := os.Stat(path); {
	case err == nil && !info.IsDir():
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	case err == nil:
		// A process may have died between making it and syncing. Where the
		// folder above belongs to somebody else, they made this one.
		if err := Sync(filepath.Dir(path)); !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := Mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return Sync(filepath.Dir(path))
}

// Sync makes the entries of a folder durable.
func Sync(folder string) error {
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Free is how many bytes an ordinary user may still write beside a path.
func Free(path string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:unconvert // the types differ between systems
}

// Error gives an error of the file system its code.
func Error(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%w: %w", errs.ErrDiskFull, err)
	case errs.Find(err) != errs.ErrInternal:
		return err
	}
	return fmt.Errorf("%w: %w", errs.ErrInternal, err)
}
