package segment_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/segment"
	"github.com/cryptflow/cryptflow/go/storage/storagetest"
)

func open(t *testing.T, folder string) storage.Blobs {
	t.Helper()
	s, err := segment.Open(folder, segment.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) { storagetest.Blobs(t, open) }

func TestAFolderHasOneOwner(t *testing.T) {
	folder := t.TempDir()
	s := open(t, folder)
	defer s.Close()
	if _, err := segment.Open(folder, segment.Options{}); !errors.Is(err, errs.ErrConfig) {
		t.Fatalf("a second owner: %v", err)
	}
}

// TestDamageIsNeverRead changes, cuts and extends a segment's file everywhere
// that matters: reading gives the written bytes or ErrStorage.
func TestDamageIsNeverRead(t *testing.T) {
	folder := t.TempDir()
	s := open(t, folder)
	defer s.Close()
	payload := make([]byte, 2*65536+777)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range payload {
		payload[i] = byte(rng.Uint32())
	}
	w, err := s.Create(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(payload); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(folder, "blobs", "x")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := s.Open(t.Context(), "x")
		if err == nil {
			_, err = r.ReadAt(make([]byte, len(payload)), 0)
			_ = r.Close()
		}
		if !errors.Is(err, errs.ErrStorage) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	flip := func(at int) {
		t.Helper()
		b := bytes.Clone(whole)
		b[at] ^= 1 << rng.IntN(8)
		refused(fmt.Sprintf("a flipped bit at %d", at), b)
	}
	for range 200 {
		flip(rng.IntN(len(whole)))
	}
	for at := range 8 + 4 { // the header and the first bytes
		flip(at)
	}
	for at := 8 + 65536 - 2; at < 8+65536+4+2; at++ { // a checksum and around it
		flip(at)
	}
	for at := len(whole) - 12 - 4 - 2; at < len(whole); at++ { // the last checksum and the footer
		flip(at)
	}
	for _, n := range []int{0, 1, 7, 8, 19, 20, 65536, len(whole) / 2, len(whole) - 13, len(whole) - 12, len(whole) - 1} {
		refused("cut", whole[:n])
	}
	refused("extended", append(bytes.Clone(whole), 0))
	refused("a block left out", append(bytes.Clone(whole[:8+65540]), whole[8+2*65540:]...))
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, len(payload))
	if _, err := r.ReadAt(got, 0); err != nil || !bytes.Equal(got, payload) {
		t.Fatal("the whole file does not read", err)
	}
}

// TestAReserveIsKept: uploads stop before the disk is full.
func TestAReserveIsKept(t *testing.T) {
	s, err := segment.Open(t.TempDir(), segment.Options{Reserve: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Create(t.Context(), "x"); !errors.Is(err, errs.ErrDiskFull) || !strings.Contains(err.Error(), "MiB") {
		t.Fatalf("without room: %v", err)
	}
}
