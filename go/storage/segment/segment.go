// Package segment keeps blobs in files of one folder: written elsewhere,
// synced, then renamed into place, so that a file of the folder is whole or
// absent. Every block carries a checksum that is verified on every read.
//
// # Security
//
// Files are readable by their owner only. Names are checked: nothing outside
// the folder is ever opened. Checksums find accidents, not attacks: callers
// verify what they read by digests of their own.
//
// # Compatibility
//
// A segment is "CFSG1\n\x00\x00", blocks of 64 KiB each followed by its
// CRC-32C, and a footer of the payload's length and that length's CRC-32C, all
// little-endian. The last block may be shorter.
package segment

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/disk"
	"github.com/cryptflow/cryptflow/go/storage/lock"
)

const (
	magic      = "CFSG1\n\x00\x00"
	block      = 64 << 10
	sum        = 4
	footerSize = 8 + sum
	// checkEvery is how many blocks are written between looks at the free
	// space: a MiB.
	checkEvery = 16
	// longestName is how many bytes a blob's name may have.
	longestName = 255
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Options of a folder.
type Options struct {
	// Reserve is how many bytes of the file system are left free, so that the
	// ledger beside the segments can always be written.
	Reserve int64
}

type folder struct {
	path string
	o    Options
	lock *lock.File
	pool sync.Pool // of *[]byte, a block and its checksum

	tree    sync.Mutex      // folders are made and removed one at a time
	durable map[string]bool // folders whose entry is known to be on the disk
	closed  bool
}

func (f *folder) blobs() string   { return filepath.Join(f.path, "blobs") }
func (f *folder) staging() string { return filepath.Join(f.path, "staging") }

// Open opens or makes a folder of segments and removes what was never
// committed.
func Open(path string, o Options) (storage.Blobs, error) {
	f := &folder{path: path, o: o, durable: map[string]bool{}}
	f.pool.New = func() any { b := make([]byte, block+sum); return &b }
	for _, p := range []string{f.blobs(), f.staging()} {
		if err := disk.Mkdir(p); err != nil {
			return nil, fmt.Errorf("making the folder of segments: %v: %w", err, errs.ErrConfig)
		}
	}
	held, err := lock.Acquire(filepath.Join(path, "blobs.lock"))
	if err != nil {
		return nil, err
	}
	f.lock = held
	entries, err := os.ReadDir(f.staging())
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(f.staging(), e.Name())))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("clearing staged segments: %v: %w", err, errs.ErrConfig), held.Release())
	}
	return f, nil
}

// Close gives the folder to others: segments not committed are refused from
// here on, blobs that are open can be read.
func (f *folder) Close() error {
	f.tree.Lock()
	defer f.tree.Unlock()
	f.closed = true
	return f.lock.Release()
}

// owned is called with the tree held.
func (f *folder) owned() error {
	if f.closed {
		return fmt.Errorf("the folder of segments is closed: %w", errs.ErrBadHandle)
	}
	return nil
}

var part = regexp.MustCompile(`^[a-z0-9._-]+$`)

func valid(name string) bool {
	ok := len(name) <= longestName
	for p := range strings.SplitSeq(name, "/") {
		ok = ok && p != "." && p != ".." && part.MatchString(p)
	}
	return ok
}

// place is the file of a name.
func (f *folder) place(name string) (string, error) {
	if !valid(name) {
		return "", fmt.Errorf("a blob is not called %q: %w", name, errs.ErrArgument)
	}
	return filepath.Join(f.blobs(), filepath.FromSlash(name)), nil
}

// room refuses when less than the reserve is free.
func (f *folder) room() error {
	if f.o.Reserve <= 0 {
		return nil
	}
	free, err := disk.Free(f.path)
	if err != nil {
		return disk.Error(err)
	}
	if free < f.o.Reserve {
		return fmt.Errorf("%d MiB are free and %d MiB are kept for the ledger: %w", free>>20, f.o.Reserve>>20, errs.ErrDiskFull)
	}
	return nil
}
