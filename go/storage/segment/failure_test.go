package segment

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
)

func opened(t *testing.T) *folder {
	t.Helper()
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.(*folder)
}

// full is a segment whose file is the device that is always full.
func full(t *testing.T, f *folder) *writer {
	t.Helper()
	path := filepath.Join(f.staging(), "segment-full")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &writer{folder: f, path: filepath.Join(f.blobs(), "x"), file: file, buf: f.pool.Get().(*[]byte)}
}

// TestAFullDiskEndsTheSegment: the file goes, nothing is tried again.
func TestAFullDiskEndsTheSegment(t *testing.T) {
	for name, meet := range map[string]func(w *writer) error{
		"in a block":    func(w *writer) error { _, err := w.Write(make([]byte, block)); return err },
		"in the footer": func(w *writer) error { return w.Commit() },
		"in the last block": func(w *writer) error {
			_, err := w.Write(make([]byte, 10))
			return errors.Join(err, w.Commit())
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := opened(t)
			w := full(t, f)
			if err := meet(w); !errors.Is(err, errs.ErrDiskFull) {
				t.Fatalf("a full disk: %v", err)
			}
			if _, err := os.Lstat(w.file.Name()); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("the file is left: %v", err)
			}
			if _, err := w.Write([]byte("x")); !errors.Is(err, errs.ErrDiskFull) {
				t.Fatalf("writing afterwards: %v", err)
			}
			if err := w.Commit(); !errors.Is(err, errs.ErrDiskFull) {
				t.Fatalf("committing afterwards: %v", err)
			}
			if err := w.Abort(); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Open(t.Context(), "x"); !errors.Is(err, errs.ErrStorage) {
				t.Fatalf("a blob is seen: %v", err)
			}
		})
	}
}

// TestTheReserveIsKeptWhileWriting: room may go while a segment grows.
func TestTheReserveIsKeptWhileWriting(t *testing.T) {
	f := opened(t)
	w, err := f.Create(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	f.o.Reserve = 1 << 60
	written := 0
	for err == nil && written <= 2*checkEvery*block {
		var n int
		n, err = w.Write(make([]byte, block/2))
		written += n
	}
	if !errors.Is(err, errs.ErrDiskFull) || written > checkEvery*block {
		t.Fatalf("%d bytes were written: %v", written, err)
	}
	if staged, err := os.ReadDir(f.staging()); err != nil || len(staged) != 0 {
		t.Fatalf("%d files are left (%v)", len(staged), err)
	}
}

// TestACommitThatCannotBePublishedFails: whatever took the staged file away.
func TestACommitThatCannotBePublishedFails(t *testing.T) {
	f := opened(t)
	w, err := f.Create(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(w.(*writer).file.Name()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it stays dead
		if err := w.Commit(); !errors.Is(err, errs.ErrInternal) || !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("committed: %v", err)
		}
	}
	if _, err := f.Open(t.Context(), "x"); !errors.Is(err, errs.ErrStorage) {
		t.Fatalf("a blob is seen: %v", err)
	}
}

func TestFilesAreTheOwners(t *testing.T) {
	f := opened(t)
	w, err := f.Create(t.Context(), "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		f.blobs(): 0o700, f.staging(): 0o700, filepath.Join(f.blobs(), "a"): 0o700, filepath.Join(f.blobs(), "a", "b"): 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestANameIsABlobOrAFolder(t *testing.T) {
	f := opened(t)
	commit := func(name string) error {
		w, err := f.Create(t.Context(), name)
		if err != nil {
			return err
		}
		return w.Commit()
	}
	if err := errors.Join(commit("a/b"), commit("c")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "c/d", "a/b/c/d"} {
		if err := commit(name); !errors.Is(err, errs.ErrArgument) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := f.Open(t.Context(), name); !errors.Is(err, errs.ErrStorage) {
			t.Errorf("opening %s: %v", name, err)
		}
		if err := f.Delete(t.Context(), name); err != nil {
			t.Errorf("deleting %s: %v", name, err)
		}
	}
	if err := errors.Join(commit("a/b"), commit("c")); err != nil {
		t.Fatal(err)
	}
}

func TestALaterFormatIsRecognised(t *testing.T) {
	f := opened(t)
	if err := os.WriteFile(filepath.Join(f.blobs(), "x"), []byte("CFSG2\n\x00\x00 and whatever follows"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Open(t.Context(), "x"); !errors.Is(err, errs.ErrStorage) || !bytes.Contains([]byte(err.Error()), []byte("later format")) {
		t.Fatal(err)
	}
}

func TestReadingDoesNotAllocate(t *testing.T) {
	f := opened(t)
	w, err := f.Create(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 3*block)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	r, err := f.Open(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2*block)
	allocations := testing.AllocsPerRun(50, func() {
		if _, err := r.ReadAt(p, 100); err != nil {
			t.Error(err)
		}
	})
	if allocations >= 1 {
		t.Errorf("a read allocates %v times", allocations)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(p, 0); !errors.Is(err, errs.ErrBadHandle) {
		t.Errorf("reading after Close: %v", err)
	}
}
