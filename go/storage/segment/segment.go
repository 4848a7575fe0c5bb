// Package segment keeps blobs in files of one folder: written elsewhere,
// synced, then renamed into place, so that a file of the folder is whole or
// absent. Every block carries a checksum that is verified on every read.
//
// # Security
//
// Files are readable by their owner only. Names are checked: nothing outside
// the folder is ever opened.
//
// # Compatibility
//
// A segment is "CFSG1\n\x00\x00", blocks of 64 KiB each followed by its
// CRC-32C, and a footer of the payload's length and that length's CRC-32C, all
// little-endian. The last block may be shorter.
package segment

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/lock"
)

const (
	magic      = "CFSG1\n\x00\x00"
	block      = 64 << 10
	sum        = 4
	footerSize = 8 + sum
	// checkEvery is how many bytes are written between looks at the free space.
	checkEvery = 1 << 20
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
	pool sync.Pool
	tree sync.Mutex // folders are made and removed one at a time
}

// Open opens or makes a folder of segments and removes what was never
// committed.
func Open(path string, o Options) (storage.Blobs, error) {
	for _, p := range []string{filepath.Join(path, "blobs"), filepath.Join(path, "staging")} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return nil, fmt.Errorf("making the folder of segments: %v: %w", err, errs.ErrConfig)
		}
	}
	held, err := lock.Acquire(filepath.Join(path, "blobs.lock"))
	if err != nil {
		return nil, err
	}
	f := &folder{path: path, o: o, lock: held}
	f.pool.New = func() any { b := make([]byte, block+sum); return &b }
	entries, err := os.ReadDir(filepath.Join(path, "staging"))
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(path, "staging", e.Name())))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("clearing staged segments: %v: %w", err, errs.ErrConfig), held.Release())
	}
	return f, nil
}

func (f *folder) Close() error { return f.lock.Release() }

var part = regexp.MustCompile(`^[a-z0-9_-][a-z0-9._-]*$`)

// place is the file of a name.
func (f *folder) place(name string) (string, error) {
	ok := len(name) <= 255
	for p := range strings.SplitSeq(name, "/") {
		ok = ok && part.MatchString(p)
	}
	if !ok {
		return "", fmt.Errorf("a blob is not called %q: %w", name, errs.ErrArgument)
	}
	return filepath.Join(f.path, "blobs", filepath.FromSlash(name)), nil
}

// classify gives an error of the file system its code.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%v: %w", err, errs.ErrDiskFull)
	}
	return fmt.Errorf("%v: %w", err, errs.ErrInternal)
}

// room refuses when less than the reserve is free.
func (f *folder) room() error {
	if f.o.Reserve <= 0 {
		return nil
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(f.path, &s); err != nil {
		return classify(err)
	}
	if free := int64(s.Bavail) * s.Bsize; free < f.o.Reserve {
		return fmt.Errorf("%d MiB are free and %d MiB are kept for the ledger: %w", free>>20, f.o.Reserve>>20, errs.ErrDiskFull)
	}
	return nil
}

func (f *folder) Create(_ context.Context, name string) (storage.Segment, error) {
	path, err := f.place(name)
	if err != nil {
		return nil, err
	}
	if err := f.room(); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(filepath.Join(f.path, "staging"), "segment-*")
	if err != nil {
		return nil, classify(err)
	}
	w := &writer{folder: f, file: file, path: path, buf: make([]byte, 0, block)}
	if _, err := file.WriteString(magic); err != nil {
		return nil, w.fail(err)
	}
	return w, nil
}

// writer is a segment on its way.
type writer struct {
	folder *folder
	file   *os.File
	path   string
	buf    []byte
	size   int64
	failed error
	done   bool
}

// fail ends the segment: after a failed write or sync nobody knows what is on
// the disk, so its file is removed and never tried again.
func (w *writer) fail(err error) error {
	w.failed = classify(err)
	if errs.Find(err) != errs.ErrInternal {
		w.failed = err
	}
	w.discard()
	return w.failed
}

func (w *writer) discard() {
	_ = w.file.Close()           // the file is given up
	_ = os.Remove(w.file.Name()) // or at the next start
}

func (w *writer) Write(b []byte) (int, error) {
	if w.failed != nil {
		return 0, w.failed
	}
	if w.done {
		return 0, fmt.Errorf("writing to a committed segment: %w", errs.ErrState)
	}
	n := len(b)
	if (w.size+int64(n))/checkEvery != w.size/checkEvery {
		if err := w.folder.room(); err != nil {
			return 0, w.fail(err)
		}
	}
	for len(b) > 0 {
		k := min(len(b), block-len(w.buf))
		w.buf = append(w.buf, b[:k]...)
		b = b[k:]
		if len(w.buf) == block {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	w.size += int64(n)
	return n, nil
}

func (w *writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	var check [sum]byte
	binary.LittleEndian.PutUint32(check[:], crc32.Checksum(w.buf, castagnoli))
	if _, err := w.file.Write(w.buf); err != nil {
		return w.fail(err)
	}
	if _, err := w.file.Write(check[:]); err != nil {
		return w.fail(err)
	}
	w.buf = w.buf[:0]
	return nil
}

func (w *writer) Commit() error {
	if w.failed != nil || w.done {
		return w.failed
	}
	if err := w.flush(); err != nil {
		return err
	}
	footer := binary.LittleEndian.AppendUint64(nil, uint64(w.size))
	footer = binary.LittleEndian.AppendUint32(footer, crc32.Checksum(footer, castagnoli))
	if _, err := w.file.Write(footer); err != nil {
		return w.fail(err)
	}
	if err := w.file.Sync(); err != nil {
		return w.fail(err)
	}
	if err := w.file.Close(); err != nil {
		return w.fail(err)
	}
	w.folder.tree.Lock()
	defer w.folder.tree.Unlock()
	made, err := makeFolders(filepath.Dir(w.path))
	if err != nil {
		return w.fail(err)
	}
	if err := os.Rename(w.file.Name(), w.path); err != nil {
		return w.fail(err)
	}
	for _, dir := range append(made, filepath.Dir(w.path)) {
		if err := syncFolder(dir); err != nil {
			return w.fail(err)
		}
	}
	w.done = true
	return nil
}

func (w *writer) Abort() error {
	if w.failed != nil || w.done {
		return nil
	}
	w.failed = fmt.Errorf("the segment was given up: %w", errs.ErrState)
	w.discard()
	return nil
}

// makeFolders makes a folder and returns those in which an entry was made.
func makeFolders(path string) (changed []string, err error) {
	if _, err := os.Stat(path); err == nil {
		return nil, nil
	}
	changed, err = makeFolders(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return append(changed, filepath.Dir(path)), nil
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (f *folder) Open(_ context.Context, name string) (storage.Blob, error) {
	path, err := f.place(name)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %v: %w", name, err, errs.ErrStorage)
	}
	r := &reader{folder: f, file: file, name: name}
	if err := r.header(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

type reader struct {
	folder *folder
	file   *os.File
	name   string
	size   int64
}

func (r *reader) damaged(what string) error {
	return fmt.Errorf("%s: %s: %w", r.name, what, errs.ErrStorage)
}

// header reads both ends of the file and compares its length with theirs.
func (r *reader) header() error {
	info, err := r.file.Stat()
	if err != nil {
		return classify(err)
	}
	var head [len(magic)]byte
	var foot [footerSize]byte
	if info.Size() < int64(len(head)+len(foot)) {
		return r.damaged("too short")
	}
	if _, err := r.file.ReadAt(head[:], 0); err != nil || string(head[:]) != magic {
		return r.damaged("not a segment")
	}
	if _, err := r.file.ReadAt(foot[:], info.Size()-footerSize); err != nil || crc32.Checksum(foot[:8], castagnoli) != binary.LittleEndian.Uint32(foot[8:]) {
		return r.damaged("its end is missing")
	}
	size := binary.LittleEndian.Uint64(foot[:])
	if size > 1<<50 {
		return r.damaged("its end is missing")
	}
	r.size = int64(size)
	blocks := (r.size + block - 1) / block
	if info.Size() != int64(len(magic))+r.size+sum*blocks+footerSize {
		return r.damaged("its length is not what its end says")
	}
	return nil
}

func (r *reader) Size() int64  { return r.size }
func (r *reader) Close() error { return r.file.Close() }

// ReadAt verifies every block that it touches.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: offset %d: %w", r.name, off, errs.ErrArgument)
	}
	buf := r.folder.pool.Get().(*[]byte)
	defer r.folder.pool.Put(buf)
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= r.size {
			return n, io.EOF
		}
		k := at / block
		length := min(block, r.size-k*block)
		b := (*buf)[:length+sum]
		if _, err := r.file.ReadAt(b, int64(len(magic))+k*(block+sum)); err != nil {
			return n, r.damaged("it cannot be read")
		}
		if crc32.Checksum(b[:length], castagnoli) != binary.LittleEndian.Uint32(b[length:]) {
			return n, r.damaged(fmt.Sprintf("block %d fails its checksum", k))
		}
		n += copy(p[n:], b[at-k*block:length])
	}
	return n, nil
}

func (f *folder) Delete(_ context.Context, name string) error {
	path, err := f.place(name)
	if err != nil {
		return err
	}
	f.tree.Lock()
	defer f.tree.Unlock()
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return classify(err)
	}
	root := filepath.Join(f.path, "blobs")
	for dir := filepath.Dir(path); dir != root; dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil { // not empty
			return classify(syncFolder(dir))
		}
	}
	return nil
}

func (f *folder) List(_ context.Context, prefix string, each func(name string) error) error {
	root := filepath.Join(f.path, "blobs")
	var names []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if name := filepath.ToSlash(rel); err == nil && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return classify(err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := each(name); err != nil {
			return err
		}
	}
	return nil
}
