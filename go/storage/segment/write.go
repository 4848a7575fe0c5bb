package segment

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/disk"
)

// writer is a segment on its way.
type writer struct {
	folder *folder
	path   string

	mu     sync.Mutex // an Abort may come while a Write runs
	file   *os.File
	buf    *[]byte // of the pool; nil once the segment ended
	held   int     // bytes in buf
	blocks int64   // written
	size   int64
	failed error
}

func (f *folder) Create(ctx context.Context, name string) (storage.Segment, error) {
	path, err := f.place(name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errs.ErrCancelled, err)
	}
	if err := f.room(); err != nil {
		return nil, err
	}
	f.tree.Lock()
	defer f.tree.Unlock()
	if err := f.owned(); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(f.staging(), "segment-*") // of mode 0600
	if err != nil {
		return nil, disk.Error(err)
	}
	w := &writer{folder: f, path: path, file: file, buf: f.pool.Get().(*[]byte)}
	if _, err := file.WriteString(magic); err != nil {
		return nil, w.fail(err)
	}
	return w, nil
}

// fail ends the segment: after a failed write or sync nobody knows what is on
// the disk, so its file is removed and never tried again.
func (w *writer) fail(err error) error {
	w.failed = disk.Error(err)
	_ = w.file.Close()           // the file is given up
	_ = os.Remove(w.file.Name()) // or at the next start
	w.release()
	return w.failed
}

func (w *writer) release() {
	w.folder.pool.Put(w.buf)
	w.buf = nil
}

func (w *writer) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return 0, w.failed
	}
	if w.buf == nil {
		return 0, fmt.Errorf("writing to a committed segment: %w", errs.ErrState)
	}
	n := 0
	for n < len(b) {
		k := copy((*w.buf)[w.held:block], b[n:])
		w.held += k
		n += k
		if w.held == block {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	w.size += int64(n)
	return n, nil
}

func (w *writer) flush() error {
	if w.held == 0 {
		return nil
	}
	if w.blocks++; w.blocks%checkEvery == 0 {
		if err := w.folder.room(); err != nil {
			return w.fail(err)
		}
	}
	b := (*w.buf)[:w.held+sum]
	binary.LittleEndian.PutUint32(b[w.held:], crc32.Checksum(b[:w.held], castagnoli))
	if _, err := w.file.Write(b); err != nil {
		return w.fail(err)
	}
	w.held = 0
	return nil
}

func (w *writer) Commit() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil || w.buf == nil {
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
	if err := w.folder.publish(w.file.Name(), w.path); err != nil {
		return w.fail(err)
	}
	w.release()
	return nil
}

func (w *writer) Abort() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buf != nil {
		_ = w.fail(fmt.Errorf("the segment was given up: %w", errs.ErrState))
	}
	return nil
}

// publish renames a staged file to where it belongs. When it fails the blob
// may be there or not.
func (f *folder) publish(staged, path string) error {
	dir, err := f.rename(staged, path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close(), disk.Sync(f.staging()))
}

// rename returns the folder, open, so that it can be synced while others
// rename.
func (f *folder) rename(staged, path string) (*os.File, error) {
	f.tree.Lock()
	defer f.tree.Unlock()
	if err := f.owned(); err != nil {
		return nil, err
	}
	err := f.ensure(filepath.Dir(path))
	if err == nil {
		err = os.Rename(staged, path)
	}
	switch {
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EEXIST):
		return nil, fmt.Errorf("one blob's name is the folder of another: %w: %w", errs.ErrArgument, err)
	case err != nil:
		return nil, err
	}
	return os.Open(filepath.Dir(path))
}

// ensure makes a folder of blobs whose entry survives power loss, also when a
// process before this one made it and died before the sync.
func (f *folder) ensure(path string) error {
	if path == f.blobs() || f.durable[path] {
		return nil
	}
	if err := f.ensure(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := disk.Sync(filepath.Dir(path)); err != nil {
		return err
	}
	f.durable[path] = true
	return nil
}
