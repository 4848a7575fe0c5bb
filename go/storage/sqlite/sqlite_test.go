package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/sqlite"
	"github.com/cryptflow/cryptflow/go/storage/storagetest"
)

func open(t *testing.T, folder string) storage.Ledger {
	t.Helper()
	l, err := sqlite.Open(filepath.Join(folder, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestConformance(t *testing.T) { storagetest.Ledger(t, open) }

func TestALedgerHasOneOwner(t *testing.T) {
	folder := t.TempDir()
	l := open(t, folder)
	if _, err := sqlite.Open(filepath.Join(folder, "ledger.db")); !errors.Is(err, errs.ErrConfig) || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("a second owner: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, folder).Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(folder, "ledger.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
}

func TestDamageIsNoticed(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "ledger.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(path); !errors.Is(err, errs.ErrStorage) {
		t.Fatalf("a file of something else: %v", err)
	}
}

// roles are what a child process does with a ledger when asked to.
var roles = map[string]func(path string) error{
	"open": func(path string) error {
		l, err := sqlite.Open(path)
		if err != nil {
			return err
		}
		return l.Close()
	},
	// write commits rows and says so after each, until it is killed.
	"write": func(path string) error {
		l, err := sqlite.Open(path)
		if err != nil {
			return err
		}
		for i := 0; ; i++ {
			if err := l.Update(context.Background(), func(w storage.Writer) error {
				return errors.Join(w.Put("a", fmt.Sprintf("%08d", i), []byte(strconv.Itoa(i))), w.Put("b", fmt.Sprintf("%08d", i), make([]byte, 3000)))
			}); err != nil {
				return err
			}
			fmt.Println(i)
		}
	},
}

func TestMain(m *testing.M) {
	role := os.Getenv("CRYPTFLOW_TEST_ROLE")
	if role == "" {
		os.Exit(m.Run())
	}
	if err := roles[role](os.Getenv("CRYPTFLOW_TEST_LEDGER")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestAnotherProcessIsRefused(t *testing.T) {
	folder := t.TempDir()
	try := func() (string, error) {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "CRYPTFLOW_TEST_ROLE=open", "CRYPTFLOW_TEST_LEDGER="+filepath.Join(folder, "ledger.db"))
		out, err := child.CombinedOutput()
		return string(out), err
	}
	l := open(t, folder)
	if out, err := try(); err == nil || !strings.Contains(out, "another process uses this data folder") {
		t.Fatalf("%q, %v", out, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := try(); err != nil {
		t.Fatalf("after it was closed: %q, %v", out, err)
	}
}

// TestKilledWritersLoseNothingTheyAcknowledged kills writers at random
// acknowledgements: every row said to be there is, and of the one on its way
// both halves or none.
func TestKilledWritersLoseNothingTheyAcknowledged(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	folder := t.TempDir()
	acknowledged := -1
	for range 5 {
		child := exec.Command(os.Args[0])
		path := filepath.Join(folder, strconv.Itoa(int(rng.Uint32()))+".db")
		child.Env = append(os.Environ(), "CRYPTFLOW_TEST_ROLE=write", "CRYPTFLOW_TEST_LEDGER="+path)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines, stop := bufio.NewScanner(out), rng.IntN(60)
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			if acknowledged = n; n == stop {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, _ = io.Copy(io.Discard, out)
		if err := child.Wait(); err == nil {
			t.Fatal("the writer ended by itself")
		}
		l, err := sqlite.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		rows := map[string]int{}
		if err := l.View(t.Context(), func(r storage.Reader) error {
			for _, bucket := range []string{"a", "b"} {
				if err := r.List(bucket, "", func(key string, v []byte) error {
					i := rows[bucket]
					rows[bucket]++
					if key != fmt.Sprintf("%08d", i) || bucket == "a" && string(v) != strconv.Itoa(i) || bucket == "b" && len(v) != 3000 {
						return fmt.Errorf("row %d of %s is %q of %d bytes", i, bucket, key, len(v))
					}
					return nil
				}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if rows["a"] < acknowledged+1 || rows["a"] > acknowledged+2 || rows["a"] != rows["b"] {
			t.Fatalf("%d rows were acknowledged, %v are there", acknowledged+1, rows)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
