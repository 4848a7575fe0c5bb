package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
)

func opened(t *testing.T, path string) *ledger {
	t.Helper()
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l.(*ledger)
}

func keys(t *testing.T, l storage.Ledger, bucket string) (out []string) {
	t.Helper()
	if err := l.View(t.Context(), func(r storage.Reader) error {
		return r.List(bucket, "", func(key string, _ []byte) error { out = append(out, key); return nil })
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestAFullDiskChangesNothing: SQLite answers SQLITE_FULL, rolls back by itself
// and would run the next statement as a transaction of its own.
func TestAFullDiskChangesNothing(t *testing.T) {
	l := opened(t, filepath.Join(t.TempDir(), "ledger.db"))
	if err := l.Update(t.Context(), func(w storage.Writer) error { return w.Put("a", "before", []byte("x")) }); err != nil {
		t.Fatal(err)
	}
	var pages int
	if err := l.writer.QueryRow("PRAGMA page_count").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	limit := func(n int) {
		t.Helper()
		if _, err := l.writer.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", n)); err != nil {
			t.Fatal(err)
		}
	}
	for _, swallow := range []bool{false, true} {
		t.Run(fmt.Sprintf("swallowed=%v", swallow), func(t *testing.T) {
			limit(pages + 2) // of the connection, which is another one after a failure
			err := l.Update(t.Context(), func(w storage.Writer) error {
				err := errors.Join(w.Put("a", "large", make([]byte, 1<<20)), w.Put("a", "small", []byte("x")), w.Delete("a", "before"))
				if !errors.Is(err, errs.ErrDiskFull) {
					t.Errorf("writing beyond the limit: %v", err)
				}
				if swallow {
					return nil
				}
				return err
			})
			if !errors.Is(err, errs.ErrDiskFull) {
				t.Fatalf("the transaction: %v", err)
			}
			if got := keys(t, l, "a"); !slices.Equal(got, []string{"before"}) {
				t.Fatalf("%q are there after a transaction that failed", got)
			}
		})
	}
	limit(1 << 20)
	if err := l.Update(t.Context(), func(w storage.Writer) error { return w.Put("a", "after", make([]byte, 1<<20)) }); err != nil {
		t.Fatalf("with room again: %v", err)
	}
}

func TestForeignAndLaterFilesAreLeftAlone(t *testing.T) {
	for name, change := range map[string]string{
		"a later format":           "PRAGMA user_version = 2",
		"another program's tables": "PRAGMA user_version = 0",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ledger.db")
			l, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.(*ledger).writer.Exec(change); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path); !errors.Is(err, errs.ErrConfig) {
				t.Fatalf("opened: %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || !slices.Equal(before, after) {
				t.Fatalf("the file was changed (%v)", err)
			}
		})
	}
}

// TestDamagedPagesAreNoticed writes over each page in turn and cuts the file
// between pages: the ledger does not open.
func TestDamagedPagesAreNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	const rows = 200
	if err := l.Update(t.Context(), func(w storage.Writer) error {
		for i := range rows {
			if err := w.Put("a", fmt.Sprintf("%04d", i), make([]byte, 300)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	if len(whole) < 10*page {
		t.Fatalf("the log was not folded into the file: %d bytes", len(whole))
	}
	damaged := func(what string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(path)
		if err == nil {
			err = l.Close()
		}
		if !errors.Is(err, errs.ErrStorage) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for at := 0; at < len(whole); at += page {
		b := slices.Clone(whole)
		for i := range b[at : at+page] {
			b[at+i] = 0xa5
		}
		damaged(fmt.Sprintf("page %d overwritten", at/page), b)
		if at > 0 {
			damaged(fmt.Sprintf("cut to %d pages", at/page), whole[:at])
			damaged(fmt.Sprintf("cut in page %d", at/page), whole[:at+page/2])
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := len(keys(t, opened(t, path), "a")); n != rows {
		t.Fatalf("%d rows in the whole file", n)
	}
}

func TestWaitingForTheWriterEndsWithTheContext(t *testing.T) {
	l := opened(t, filepath.Join(t.TempDir(), "ledger.db"))
	if err := l.Update(t.Context(), func(storage.Writer) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := l.Update(ctx, func(storage.Writer) error { return nil })
		if !errors.Is(err, errs.ErrCancelled) || !errors.Is(err, context.Canceled) {
			return fmt.Errorf("waiting ended with: %w", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
