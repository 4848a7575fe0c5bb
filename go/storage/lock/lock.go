// Package lock keeps a second process away from files that have one owner. The
// kernel gives the lock back when the process dies.
package lock

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/cryptflow/cryptflow/go/errs"
)

// File is a held lock.
type File struct{ f *os.File }

// Acquire takes the lock of a path, or says that another process has it.
func Acquire(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking: %v: %w", err, errs.ErrConfig)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s, which needs a file system with locks: %v: %w", path, err, errs.ErrConfig)
		}
		return nil, fmt.Errorf("%s is held: another process uses this data folder; stop it or name another folder: %w", path, errs.ErrConfig)
	}
	return &File{f}, nil
}

// Release gives the lock back.
func (l *File) Release() error {
	if l == nil || l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}
