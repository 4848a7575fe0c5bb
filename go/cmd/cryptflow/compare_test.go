package main

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/sqlite"
	"github.com/cryptflow/cryptflow/go/task"
)

// exportOf writes the log of some details, signed with a key, into a folder.
func exportOf(t *testing.T, seed byte, details ...string) string {
	t.Helper()
	ledger, err := sqlite.Open(filepath.Join(t.TempDir(), "l.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	signer, err := audit.NewSigner("k", private)
	if err != nil {
		t.Fatal(err)
	}
	l := &client.Log{Name: "k", Key: task.Key(private.Public().(ed25519.PublicKey))}
	if err := ledger.Update(t.Context(), func(w storage.Writer) (err error) {
		for _, d := range details {
			if _, err := audit.Append(w, audit.Record{Time: time.Unix(1, 0), Event: audit.Refused, Detail: d}); err != nil {
				return err
			}
		}
		if l.Records, err = audit.Records(w, 0, 100); err != nil {
			return err
		}
		l.Checkpoint, _, err = signer.Checkpoint(w)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "log")
	if err := export(&bytes.Buffer{}, folder, l); err != nil {
		t.Fatal(err)
	}
	return folder
}

func keyOf(seed byte) string {
	return fmt.Sprintf("%x", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)).Public())
}

func TestComparedLogsAreTheSameOrExtendOrFork(t *testing.T) {
	short, long := exportOf(t, 1, "a", "b"), exportOf(t, 1, "a", "b", "c")
	rewritten, foreign := exportOf(t, 1, "a", "x", "c", "d"), exportOf(t, 2, "a", "b")
	bare := func(folder string) string { return filepath.Join(folder, checkpointFile) }
	for _, x := range []struct {
		a, b string
		want error
		says string
	}{
		{short, short, nil, "same: "},
		{bare(short), bare(exportOf(t, 1, "a", "b")), nil, "same: "},
		{short, long, status(exitExtends), "extends: "},
		{long, bare(short), status(exitExtends), "extends: "},
		{short, rewritten, status(exitFork), "fork: "},
		{bare(short), rewritten, status(exitFork), "fork: "},
		{bare(exportOf(t, 1, "a", "y")), bare(short), status(exitFork), "fork: "},
		{bare(short), bare(long), status(exitUndecided), "undecided: "},
		{short, foreign, errs.ErrAudit, ""},
		{short, filepath.Join(short, "nothing"), errs.ErrArgument, ""},
		{short, filepath.Join(short, logFile), errs.ErrAudit, ""},
	} {
		var out bytes.Buffer
		if err := compare(&out, x.a, x.b, keyOf(1)); !errors.Is(err, x.want) || !strings.HasPrefix(out.String(), x.says) {
			t.Errorf("%s and %s: %v, %q; want %v, %q", x.a, x.b, err, out.String(), x.want, x.says)
		}
	}
	var out bytes.Buffer
	if err := compare(&out, short, foreign, ""); !errors.Is(err, errs.ErrArgument) {
		t.Error("logs of two keys were compared:", err)
	}
}

// TestAVerifiedLogClaimsNoMoreThanItProves: without a pinned key the last line
// says that forks remain possible.
func TestAVerifiedLogClaimsNoMoreThanItProves(t *testing.T) {
	folder := exportOf(t, 1, "a")
	var unpinned, pinned bytes.Buffer
	if err := verify(&unpinned, folder, "", false); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(unpinned.String()), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, "proves nothing about forks") {
		t.Errorf("the last line is %q", last)
	}
	if err := verify(&pinned, folder, keyOf(1), false); err != nil || strings.Contains(pinned.String(), "proves nothing") {
		t.Errorf("%v: %q", err, pinned.String())
	}
	if err := verify(&pinned, folder, keyOf(2), false); !errors.Is(err, errs.ErrAudit) {
		t.Errorf("another key: %v", err)
	}
}
