package segment_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage/segment"
)

// segmentOf is a segment's file, made by hand.
func segmentOf(payload []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	b := []byte("CFSG1\n\x00\x00")
	for at := 0; at < len(payload); at += 64 << 10 {
		part := payload[at:min(at+64<<10, len(payload))]
		b = binary.LittleEndian.AppendUint32(append(b, part...), crc32.Checksum(part, table))
	}
	foot := binary.LittleEndian.AppendUint64(nil, uint64(len(payload)))
	return binary.LittleEndian.AppendUint32(append(b, foot...), crc32.Checksum(foot, table))
}

// FuzzSegment: a file that reads whole is, byte for byte, what writing its
// content makes; everything else is ErrStorage.
func FuzzSegment(f *testing.F) {
	folder := f.TempDir()
	s, err := segment.Open(folder, segment.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	if err := os.MkdirAll(filepath.Join(folder, "blobs"), 0o700); err != nil {
		f.Fatal(err)
	}
	for _, n := range []int{0, 1, 1000} {
		good := segmentOf(bytes.Repeat([]byte{7}, n))
		f.Add(good)
		f.Add(good[:len(good)-1])
		f.Add(append(bytes.Clone(good), 0))
		f.Add(append(good[:8:8], good[len(good)-12:]...))
	}
	// A footer that claims more than there is, with a good checksum.
	foot := binary.LittleEndian.AppendUint64(nil, 1<<63+5)
	f.Add(binary.LittleEndian.AppendUint32(append([]byte("CFSG1\n\x00\x00"), foot...), crc32.Checksum(foot, crc32.MakeTable(crc32.Castagnoli))))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(folder, "blobs", "x"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := s.Open(t.Context(), "x")
		if err != nil {
			if !errors.Is(err, errs.ErrStorage) {
				t.Fatal(err)
			}
			return
		}
		defer r.Close()
		if r.Size() > int64(len(b)) {
			t.Fatalf("%d bytes hold %d", len(b), r.Size())
		}
		got := make([]byte, r.Size())
		if n, err := r.ReadAt(got, 0); n < len(got) || (err != nil && !errors.Is(err, io.EOF)) {
			if !errors.Is(err, errs.ErrStorage) {
				t.Fatal(n, err)
			}
			return
		}
		if !bytes.Equal(segmentOf(got), b) {
			t.Fatal("two files for one content")
		}
	})
}

// FuzzName: no name leads outside the folder.
func FuzzName(f *testing.F) {
	folder := f.TempDir()
	s, err := segment.Open(folder, segment.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	if err := os.WriteFile(filepath.Join(folder, "outside"), segmentOf([]byte("secret")), 0o600); err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"a/b", "../outside", "a/../../outside", "/etc/passwd", "", "a//b", "a\x00b", ".", "A", "a/."} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		r, err := s.Open(t.Context(), name)
		if err == nil {
			_ = r.Close()
			t.Fatalf("%q was opened", name)
		}
		if !errors.Is(err, errs.ErrArgument) && !errors.Is(err, errs.ErrStorage) {
			t.Fatal(err)
		}
	})
}
