package segment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage/disk"
)

func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// Delete also removes folders that became empty. It is durable: a blob that is
// gone does not come back.
func (f *folder) Delete(ctx context.Context, name string) error {
	path, err := f.place(name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", errs.ErrCancelled, err)
	}
	dir, err := f.remove(path)
	if dir == nil || err != nil {
		return err
	}
	return disk.Error(errors.Join(dir.Sync(), dir.Close()))
}

// remove returns the folder that changed, open, so that it can be synced while
// others go on; nil when there was no blob.
func (f *folder) remove(path string) (*os.File, error) {
	f.tree.Lock()
	defer f.tree.Unlock()
	if err := f.owned(); err != nil {
		return nil, err
	}
	switch info, err := os.Lstat(path); {
	case absent(err), err == nil && info.IsDir():
		return nil, nil
	case err != nil:
		return nil, disk.Error(err)
	}
	if err := os.Remove(path); err != nil {
		return nil, disk.Error(err)
	}
	at := filepath.Dir(path)
	for at != f.blobs() && os.Remove(at) == nil { // until one is not empty
		delete(f.durable, at)
		at = filepath.Dir(at)
	}
	dir, err := os.Open(at)
	return dir, disk.Error(err)
}

// List collects the names first: each may create and delete.
func (f *folder) List(ctx context.Context, prefix string, each func(name string) error) error {
	from := f.blobs()
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		if !valid(prefix[:i]) {
			return nil // no blob is called so
		}
		from = filepath.Join(from, filepath.FromSlash(prefix[:i]))
	}
	var names []string
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if absent(err) {
			return nil // deleted meanwhile
		}
		if err = errors.Join(err, ctx.Err()); err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(f.blobs(), path)
		if name := filepath.ToSlash(rel); err == nil && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
		return err
	})
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", errs.ErrCancelled, ctx.Err())
	case err != nil:
		return disk.Error(err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := each(name); err != nil {
			return err
		}
	}
	return nil
}
