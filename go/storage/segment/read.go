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
	"strings"
	"syscall"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/disk"
)

// reader is a committed segment. It keeps no position: calls may overlap.
type reader struct {
	folder *folder
	file   *os.File
	name   string
	size   int64
}

func (f *folder) Open(ctx context.Context, name string) (storage.Blob, error) {
	path, err := f.place(name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errs.ErrCancelled, err)
	}
	file, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("there is no %s: %w", name, errs.ErrStorage)
	case err != nil:
		return nil, fmt.Errorf("opening %s: %w", name, disk.Error(err))
	}
	r := &reader{folder: f, file: file, name: name}
	if err := r.header(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

func (r *reader) damaged(what string) error {
	return fmt.Errorf("%s: %s: %w", r.name, what, errs.ErrStorage)
}

// header reads both ends of the file and compares its length with theirs.
func (r *reader) header() error {
	info, err := r.file.Stat()
	if err != nil {
		return disk.Error(err)
	}
	var head [len(magic)]byte
	var foot [footerSize]byte
	if !info.Mode().IsRegular() || info.Size() < int64(len(head)+len(foot)) {
		return r.damaged("too short")
	}
	if _, err := r.file.ReadAt(head[:], 0); err != nil || !strings.HasPrefix(string(head[:]), magic[:4]) {
		return r.damaged("not a segment")
	}
	if string(head[:]) != magic {
		return r.damaged("damaged, or of a later format than this program knows")
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
		switch _, err := r.file.ReadAt(b, int64(len(magic))+k*(block+sum)); {
		case errors.Is(err, fs.ErrClosed):
			return n, fmt.Errorf("%s: %w", r.name, errs.ErrBadHandle)
		case err != nil:
			return n, r.damaged("it cannot be read")
		}
		if crc32.Checksum(b[:length], castagnoli) != binary.LittleEndian.Uint32(b[length:]) {
			return n, r.damaged(fmt.Sprintf("block %d fails its checksum", k))
		}
		n += copy(p[n:], b[at-k*block:length])
	}
	return n, nil
}
