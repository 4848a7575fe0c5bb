package segment_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/segment"
)

// payload is what the i-th blob holds, up to four blocks of it.
func payload(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 3))
	b := make([]byte, rng.IntN(4*65536))
	for j := range b {
		b[j] = byte(rng.Uint32())
	}
	return b
}

func put(s storage.Blobs, name string, b []byte) error {
	w, err := s.Create(context.Background(), name)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	return w.Commit()
}

func read(s storage.Blobs, name string) ([]byte, error) {
	r, err := s.Open(context.Background(), name)
	if err != nil {
		return nil, err
	}
	b := make([]byte, r.Size())
	_, err = r.ReadAt(b, 0)
	return b, errors.Join(err, r.Close())
}

// writeForever commits blobs, replaces one again and again, removes another,
// and says which are done.
func writeForever(folder string) error {
	s, err := segment.Open(folder, segment.Options{})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if err := put(s, fmt.Sprintf("all/%d/%06d", i%3, i), payload(i)); err != nil {
			return err
		}
		if err := put(s, "latest", payload(i)); err != nil {
			return err
		}
		if err := put(s, "brief/"+strconv.Itoa(i), nil); err != nil {
			return err
		}
		if err := s.Delete(context.Background(), "brief/"+strconv.Itoa(i)); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

func TestMain(m *testing.M) {
	folder := os.Getenv("CRYPTFLOW_TEST_SEGMENTS")
	if folder == "" {
		os.Exit(m.Run())
	}
	if err := writeForever(folder); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestKilledWritersLeaveWholeBlobs kills writers at random acknowledgements:
// all they acknowledged is there and whole, what was deleted is gone, and
// nothing half is seen.
func TestKilledWritersLeaveWholeBlobs(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	for run := range 5 {
		stop := rng.IntN(25)
		t.Run(fmt.Sprintf("run=%d/stop=%d", run, stop), func(t *testing.T) {
			folder := t.TempDir()
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), "CRYPTFLOW_TEST_SEGMENTS="+folder)
			child.Stderr = os.Stderr
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			acknowledged := -1
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if acknowledged, err = strconv.Atoi(lines.Text()); err != nil {
					t.Error(err)
				}
				if acknowledged == 0 {
					if _, err := segment.Open(folder, segment.Options{}); !errors.Is(err, errs.ErrConfig) {
						t.Errorf("a second process was let in: %v", err)
					}
				}
				if acknowledged == stop {
					if err := child.Process.Kill(); err != nil {
						t.Error(err)
					}
				}
			}
			if err := child.Wait(); err == nil || acknowledged < stop {
				t.Fatalf("the writer ended by itself after %d: %v", acknowledged, err)
			}
			s := open(t, folder)
			defer s.Close()
			seen := map[int]bool{}
			if err := s.List(t.Context(), "", func(name string) error {
				b, err := read(s, name)
				if err != nil || strings.HasPrefix(name, "brief/") {
					return err
				}
				if name == "latest" {
					for i := acknowledged; i <= acknowledged+1; i++ {
						if bytes.Equal(b, payload(i)) {
							return nil
						}
					}
					return fmt.Errorf("latest is neither the acknowledged blob nor the one after it")
				}
				i, err := strconv.Atoi(filepath.Base(name))
				if err == nil && !bytes.Equal(b, payload(i)) {
					err = fmt.Errorf("%s holds other bytes", name)
				}
				seen[i] = true
				return err
			}); err != nil {
				t.Fatal(err)
			}
			for i := range acknowledged + 1 {
				if !seen[i] {
					t.Errorf("blob %d was acknowledged and is gone", i)
				}
				if _, err := read(s, "brief/"+strconv.Itoa(i)); !errors.Is(err, errs.ErrStorage) {
					t.Errorf("blob brief/%d was deleted and is back: %v", i, err)
				}
			}
			if len(seen) > acknowledged+2 {
				t.Errorf("%d blobs after %d acknowledgements", len(seen), acknowledged+1)
			}
			if staged, err := os.ReadDir(filepath.Join(folder, "staging")); err != nil || len(staged) != 0 {
				t.Errorf("%d staged files are left (%v)", len(staged), err)
			}
		})
	}
}
