package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
)

// bytesOf are reproducible.
func bytesOf(seed uint64, n int) []byte {
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	_, _ = rng.Read(b) // never fails
	return b
}

// Blobs runs the suite. open opens the blobs of a folder, again when they were
// closed.
func Blobs(t *testing.T, open func(t *testing.T, folder string) storage.Blobs) {
	store := func(t *testing.T, s storage.Blobs, name string, b []byte) {
		t.Helper()
		w, err := s.Create(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for len(b) > 0 {
			n := min(len(b), 1+len(b)/3)
			if k, err := w.Write(b[:n]); err != nil || k != n {
				t.Fatal(k, err)
			}
			b = b[n:]
		}
		if err := errors.Join(w.Commit(), w.Commit()); err != nil {
			t.Fatal(err)
		}
	}
	names := func(t *testing.T, s storage.Blobs, prefix string) (out []string) {
		t.Helper()
		if err := s.List(t.Context(), prefix, func(name string) error { out = append(out, name); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	t.Run("what was written is read", func(t *testing.T) {
		folder := t.TempDir()
		s := open(t, folder)
		sizes := []int{0, 1, 65535, 65536, 65537, 3*65536 + 17}
		for _, n := range sizes {
			store(t, s, "a/"+strings.Repeat("n", 1+n%7)+"/x", bytesOf(uint64(n), n))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, folder)
			r, err := s.Open(t.Context(), "a/"+strings.Repeat("n", 1+n%7)+"/x")
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, n)
			if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, bytesOf(uint64(n), n)) || r.Size() != int64(n) {
				t.Fatalf("%d bytes came back otherwise: %v", n, err)
			}
			if k, err := r.ReadAt(make([]byte, 1), int64(n)); k != 0 || !errors.Is(err, io.EOF) {
				t.Fatalf("beyond the end: %d, %v", k, err)
			}
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(w), uint64(n)))
					for range 20 {
						if n == 0 {
							return
						}
						from := rng.IntN(n)
						part := make([]byte, 1+rng.IntN(n-from))
						if _, err := r.ReadAt(part, int64(from)); err != nil || !bytes.Equal(part, got[from:from+len(part)]) {
							t.Errorf("%d bytes at %d: %v", len(part), from, err)
						}
					}
				})
			}
			wg.Wait()
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("nothing is seen before the commit", func(t *testing.T) {
		folder := t.TempDir()
		s := open(t, folder)
		w, err := s.Create(t.Context(), "x/y")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("half")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(t.Context(), "x/y"); !errors.Is(err, errs.ErrStorage) || len(names(t, s, "")) != 0 {
			t.Fatalf("an uncommitted blob is seen: %v", err)
		}
		if err := w.Abort(); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(); err == nil {
			t.Fatal("a blob that was given up was committed")
		}
		if _, err := s.Create(t.Context(), "x/z"); err != nil { // never committed
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, folder)
		defer s.Close()
		if got := names(t, s, ""); len(got) != 0 {
			t.Fatalf("after a restart there is %q", got)
		}
	})
	t.Run("names", func(t *testing.T) {
		s := open(t, t.TempDir())
		defer s.Close()
		for _, bad := range []string{"", "/", "a//b", "../a", "a/..", ".", "a/./b", "a b", "A", "..", "a/../../b", "a\n", "a\nb", "a\x00", "ü", strings.Repeat("a", 256), "a/", "/a", `a\b`} {
			if _, err := s.Create(t.Context(), bad); !errors.Is(err, errs.ErrArgument) {
				t.Errorf("%q: %v", bad, err)
			}
			if _, err := s.Open(t.Context(), bad); !errors.Is(err, errs.ErrArgument) {
				t.Errorf("opening %q: %v", bad, err)
			}
			if err := s.Delete(t.Context(), bad); !errors.Is(err, errs.ErrArgument) {
				t.Errorf("deleting %q: %v", bad, err)
			}
		}
		for _, name := range []string{"c/2", "c/1/x", "c/1/y", "d", "c/10"} {
			store(t, s, name, []byte(name))
		}
		if got, want := names(t, s, "c/1"), []string{"c/1/x", "c/1/y", "c/10"}; !slices.Equal(got, want) {
			t.Fatalf("listed %q, want %q", got, want)
		}
		for _, name := range []string{"c/1/x", "c/1/y", "never"} {
			if err := s.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := names(t, s, ""), []string{"c/10", "c/2", "d"}; !slices.Equal(got, want) {
			t.Fatalf("listed %q, want %q", got, want)
		}
		store(t, s, "d", []byte("another"))
		r, err := s.Open(t.Context(), "d")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got := make([]byte, 7)
		if _, err := r.ReadAt(got, 0); err != nil || string(got) != "another" {
			t.Fatalf("%q, %v", got, err)
		}
	})
	t.Run("unusual names", func(t *testing.T) {
		s := open(t, t.TempDir())
		defer s.Close()
		all := []string{"-", "...", ".a", "_/0/-/..a", strings.Repeat("a", 255), strings.Repeat("b/", 127) + "b"}
		for _, name := range all {
			store(t, s, name, []byte(name))
		}
		slices.Sort(all)
		if got := names(t, s, ""); !slices.Equal(got, all) {
			t.Fatalf("listed %q", got)
		}
		for _, prefix := range []string{"../", "/", "b//", "never/", "-/"} {
			if got := names(t, s, prefix); len(got) != 0 {
				t.Errorf("%q lists %q", prefix, got)
			}
		}
	})
	t.Run("a replaced blob is whole", func(t *testing.T) {
		s := open(t, t.TempDir())
		defer s.Close()
		store(t, s, "x", bytesOf(1, 70000))
		old, err := s.Open(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		w, err := s.Create(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytesOf(2, 100)); err != nil {
			t.Fatal(err)
		}
		same := func(r storage.Blob, want []byte) {
			t.Helper()
			got := make([]byte, r.Size())
			if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		}
		same(old, bytesOf(1, 70000))
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		same(old, bytesOf(1, 70000)) // what was opened stays
		now, err := s.Open(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		same(now, bytesOf(2, 100))
		if _, err := w.Write([]byte("more")); !errors.Is(err, errs.ErrState) {
			t.Fatalf("writing after the commit: %v", err)
		}
		if err := errors.Join(w.Abort(), now.Close()); err != nil {
			t.Fatal(err)
		}
		if got := names(t, s, ""); !slices.Equal(got, []string{"x"}) {
			t.Fatalf("an Abort after the commit left %q", got)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		s := open(t, t.TempDir())
		defer s.Close()
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := range 10 {
					name := fmt.Sprintf("shared/%d/%d", i%2, worker*100+i)
					w, err := s.Create(t.Context(), name)
					if err != nil {
						t.Error(err)
						return
					}
					_, err = w.Write([]byte(name))
					if err := errors.Join(err, w.Commit()); err != nil {
						t.Error(err)
					}
					if err := s.List(t.Context(), "shared/", func(string) error { return nil }); err != nil {
						t.Errorf("listing while others delete: %v", err)
					}
					if err := s.Delete(t.Context(), name); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := names(t, s, ""); len(got) != 0 {
			t.Fatalf("left: %q", got)
		}
	})
	t.Run("nothing changes after Close", func(t *testing.T) {
		folder := t.TempDir()
		s := open(t, folder)
		store(t, s, "kept", []byte("x"))
		w, err := s.Create(t.Context(), "late")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		next := open(t, folder)
		defer next.Close()
		_, creating := s.Create(t.Context(), "y")
		for what, err := range map[string]error{"create": creating, "commit": w.Commit(), "delete": s.Delete(t.Context(), "kept")} {
			if !errors.Is(err, errs.ErrBadHandle) {
				t.Errorf("%s after Close: %v", what, err)
			}
		}
		if got := names(t, next, ""); !slices.Equal(got, []string{"kept"}) {
			t.Fatalf("the next owner sees %q", got)
		}
	})
}
