package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/sqlite"
)

func init() { roles["fail"] = failDisk }

// failDisk commits a row, lets the kernel refuse every longer file, so that
// writes of the log fail with EFBIG, and then lifts the limit again.
func failDisk(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	l, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	put := func(key string) error {
		return l.Update(context.Background(), func(w storage.Writer) error { return w.Put("a", key, make([]byte, 100)) })
	}
	if err := put("first"); err != nil {
		return err
	}
	log, err := os.Stat(path + "-wal")
	if err != nil {
		return err
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(log.Size()) + 100, Max: before.Max}); err != nil {
		return err
	}
	failed := put("second")
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	fmt.Printf("failed %v\n", failed != nil)
	fmt.Printf("refused %v\n", put("third"))
	return l.View(context.Background(), func(r storage.Reader) error {
		return r.List("a", "", func(key string, _ []byte) error {
			_, err := fmt.Println("row", key)
			return err
		})
	})
}

// TestAfterADiskErrorNothingIsWritten: nobody knows what a file holds after a
// write to it failed, so the ledger waits for a restart.
func TestAfterADiskErrorNothingIsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "CRYPTFLOW_TEST_LEDGER="+path, "CRYPTFLOW_TEST_ROLE=fail")
	child.Stderr = os.Stderr
	out, err := child.Output()
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for s := bufio.NewScanner(strings.NewReader(string(out))); s.Scan(); {
		said = append(said, s.Text())
	}
	if len(said) != 3 || said[0] != "failed true" || !strings.HasPrefix(said[1], "refused the disk failed") || said[2] != "row first" {
		t.Fatalf("the child said %q", said)
	}
	l, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Update(t.Context(), func(w storage.Writer) error {
		first, err1 := w.Get("a", "first")
		second, err2 := w.Get("a", "second")
		if first == nil || second != nil {
			return fmt.Errorf("first %v, second %v: %w", first != nil, second != nil, errs.ErrStorage)
		}
		return errors.Join(err1, err2, w.Put("a", "fourth", nil))
	}); err != nil {
		t.Fatal(err)
	}
}
