// Package storagetest is the conformance suite that every driver of storage
// passes.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
)

var errWanted = errors.New("wanted by the test")

// Ledger runs the suite. open opens the ledger of a folder, again when it was
// closed.
func Ledger(t *testing.T, open func(t *testing.T, folder string) storage.Ledger) {
	put := func(t *testing.T, l storage.Ledger, bucket, key string, value []byte) {
		t.Helper()
		if err := l.Update(t.Context(), func(w storage.Writer) error { return w.Put(bucket, key, value) }); err != nil {
			t.Fatal(err)
		}
	}
	get := func(t *testing.T, l storage.Ledger, bucket, key string) (v []byte) {
		t.Helper()
		if err := l.View(t.Context(), func(r storage.Reader) (err error) {
			v, err = r.Get(bucket, key)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return v
	}
	t.Run("rows", func(t *testing.T) {
		folder := t.TempDir()
		l := open(t, folder)
		if v := get(t, l, "b", "k"); v != nil {
			t.Fatalf("an absent row is %v", v)
		}
		put(t, l, "b", "k", []byte("one"))
		put(t, l, "b", "k", []byte("two"))
		put(t, l, "c", "k", []byte{})
		put(t, l, "c", "nil", nil)
		check := func(l storage.Ledger) {
			t.Helper()
			if v := get(t, l, "b", "k"); string(v) != "two" {
				t.Fatalf("%q", v)
			}
			for _, key := range []string{"k", "nil"} {
				if v := get(t, l, "c", key); v == nil || len(v) != 0 {
					t.Fatalf("an empty row is %v", v)
				}
			}
		}
		check(l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = open(t, folder)
		check(l)
		if err := l.Update(t.Context(), func(w storage.Writer) error {
			return errors.Join(w.Delete("b", "k"), w.Delete("b", "never"))
		}); err != nil {
			t.Fatal(err)
		}
		if v := get(t, l, "b", "k"); v != nil {
			t.Fatalf("a deleted row is %v", v)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("order", func(t *testing.T) {
		l := open(t, t.TempDir())
		defer l.Close()
		keys := []string{"a/1", "a/10", "a/2", "a/ÿ", "a0", "b", "a/", "A", "a/1/x"}
		for _, k := range keys {
			put(t, l, "x", k, []byte(k))
		}
		put(t, l, "y", "a/1", nil)
		var got []string
		if err := l.View(t.Context(), func(r storage.Reader) error {
			return r.List("x", "a/", func(k string, v []byte) error {
				if k != string(v) {
					return fmt.Errorf("%s holds %q", k, v)
				}
				got = append(got, k)
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"a/", "a/1", "a/1/x", "a/10", "a/2", "a/ÿ"}; !slices.Equal(got, want) {
			t.Fatalf("listed %q, want %q", got, want)
		}
		if err := l.View(t.Context(), func(r storage.Reader) error {
			return r.List("x", "", func(string, []byte) error { return errWanted })
		}); !errors.Is(err, errWanted) {
			t.Fatalf("the callback's error became %v", err)
		}
	})
	t.Run("keys are any bytes", func(t *testing.T) {
		l := open(t, t.TempDir())
		defer l.Close()
		keys := []string{"", "\x00", "\x00\x00", "a\x00b", "a'b", "\x7f", "\x80", "\xff", "\xff\xff"} // ascending
		for _, k := range slices.Backward(keys) {
			put(t, l, "b\x00", k, []byte(k+"!"))
		}
		put(t, l, "b", "other", nil)
		var got []string
		if err := l.View(t.Context(), func(r storage.Reader) error {
			return r.List("b\x00", "", func(k string, v []byte) error {
				got = append(got, k)
				again, err := r.Get("b\x00", k) // reading while listing
				if err == nil && (string(again) != k+"!" || string(v) != k+"!") {
					err = fmt.Errorf("%q holds %q and %q", k, v, again)
				}
				return err
			})
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, keys) {
			t.Fatalf("listed %q, want %q", got, keys)
		}
	})
	t.Run("use at the wrong time", func(t *testing.T) {
		l := open(t, t.TempDir())
		put(t, l, "b", "k", []byte("before"))
		var kept storage.Writer
		if err := l.Update(t.Context(), func(w storage.Writer) error {
			kept = w
			return w.List("b", "", func(k string, _ []byte) error {
				if err := w.Put("b", k, []byte("after")); !errors.Is(err, errs.ErrState) {
					return fmt.Errorf("a change while listing: %w", err)
				}
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		if err := kept.Put("b", "k", []byte("after")); !errors.Is(err, errs.ErrState) {
			t.Fatalf("a change after its transaction: %v", err)
		}
		if v := get(t, l, "b", "k"); string(v) != "before" {
			t.Fatalf("%q", v)
		}
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
		if err := l.Update(t.Context(), func(storage.Writer) error { return nil }); !errors.Is(err, errs.ErrBadHandle) {
			t.Fatalf("a change after Close: %v", err)
		}
		if err := l.View(t.Context(), func(storage.Reader) error { return nil }); !errors.Is(err, errs.ErrBadHandle) {
			t.Fatalf("a view after Close: %v", err)
		}
	})
	t.Run("a panic changes nothing", func(t *testing.T) {
		l := open(t, t.TempDir())
		defer l.Close()
		func() {
			defer func() { _ = recover() }()
			_ = l.Update(t.Context(), func(w storage.Writer) error {
				if err := w.Put("b", "k", nil); err != nil {
					return err
				}
				panic(errWanted)
			})
		}()
		if v := get(t, l, "b", "k"); v != nil {
			t.Fatalf("%q", v)
		}
		put(t, l, "b", "k", []byte("later"))
	})
	t.Run("a failed change changes nothing", func(t *testing.T) {
		l := open(t, t.TempDir())
		defer l.Close()
		put(t, l, "b", "k", []byte("before"))
		err := l.Update(t.Context(), func(w storage.Writer) error {
			if err := errors.Join(w.Put("b", "k", []byte("after")), w.Put("b", "new", nil)); err != nil {
				return err
			}
			if v, err := w.Get("b", "k"); err != nil || string(v) != "after" {
				return fmt.Errorf("a writer reads %q, %v", v, err)
			}
			return errWanted
		})
		if !errors.Is(err, errWanted) {
			t.Fatal(err)
		}
		if v := get(t, l, "b", "k"); string(v) != "before" || get(t, l, "b", "new") != nil {
			t.Fatalf("a change that failed left %q", v)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = l.Update(ctx, func(w storage.Writer) error {
			defer cancel()
			return w.Put("b", "k", []byte("after"))
		})
		if !errors.Is(err, errs.ErrCancelled) || string(get(t, l, "b", "k")) != "before" {
			t.Fatalf("a cancelled change happened: %v", err)
		}
	})
	t.Run("changes are serial", func(t *testing.T) {
		l := open(t, t.TempDir())
		defer l.Close()
		put(t, l, "n", "n", []byte{0})
		const workers, each = 8, 20
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for range each {
					if err := l.Update(t.Context(), func(w storage.Writer) error {
						v, err := w.Get("n", "n")
						if err != nil {
							return err
						}
						return w.Put("n", "n", []byte{v[0] + 1})
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if v := get(t, l, "n", "n"); !bytes.Equal(v, []byte{workers * each}) {
			t.Fatalf("%d additions counted as %v", workers*each, v)
		}
	})
	t.Run("a view is one snapshot", func(t *testing.T) {
		l := open(t, t.TempDir())
		defer l.Close()
		put(t, l, "b", "x", []byte{1})
		put(t, l, "b", "y", []byte{1})
		if err := l.View(t.Context(), func(r storage.Reader) error {
			x, err := r.Get("b", "x")
			if err != nil {
				return err
			}
			done := make(chan error)
			go func() {
				done <- l.Update(t.Context(), func(w storage.Writer) error {
					return errors.Join(w.Put("b", "x", []byte{2}), w.Put("b", "y", []byte{2}))
				})
			}()
			if err := <-done; err != nil {
				return err
			}
			y, err := r.Get("b", "y")
			if err == nil && x[0] != y[0] {
				err = fmt.Errorf("one view saw %d and %d", x[0], y[0])
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}
