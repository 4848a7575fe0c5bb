package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/sqlite"
)

// book is a log on a real ledger.
type book struct {
	t      testing.TB
	ledger storage.Ledger
	signer *audit.Signer
	public ed25519.PublicKey
}

func newBook(t testing.TB, seed byte) *book {
	t.Helper()
	l, err := sqlite.Open(filepath.Join(t.TempDir(), "l.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	s, err := audit.NewSigner("k", private)
	if err != nil {
		t.Fatal(err)
	}
	return &book{t, l, s, private.Public().(ed25519.PublicKey)}
}

func (b *book) add(detail string) (index int64) {
	b.t.Helper()
	if err := b.ledger.Update(context.Background(), func(w storage.Writer) (err error) {
		index, err = audit.Append(w, audit.Record{Time: time.Unix(9, 0), Event: audit.Refused, Detail: detail})
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return index
}

func (b *book) look(f func(r storage.Reader) error) {
	b.t.Helper()
	if err := b.ledger.View(context.Background(), f); err != nil {
		b.t.Fatal(err)
	}
}

func (b *book) checkpoint() (c *audit.Checkpoint) {
	b.t.Helper()
	b.look(func(r storage.Reader) error {
		text, _, err := b.signer.Checkpoint(r)
		if err != nil {
			return err
		}
		c, err = audit.Open(text, "k", b.public)
		return err
	})
	return c
}

func TestEveryRecordIsProvenAndEveryLogContinues(t *testing.T) {
	b := newBook(t, 1)
	var checkpoints []*audit.Checkpoint
	for n := range int64(40) {
		if i := b.add(strings.Repeat("x", int(n))); i != n {
			t.Fatalf("record %d got index %d", n, i)
		}
		c := b.checkpoint()
		checkpoints = append(checkpoints, c)
		b.look(func(r storage.Reader) error {
			lines, err := audit.Records(r, 0, 1000)
			if err != nil {
				return err
			}
			if err := c.Verify(lines); err != nil {
				return err
			}
			for i, line := range lines {
				p, err := audit.ProveRecord(r, c.Size, int64(i))
				if err != nil {
					return err
				}
				if err := c.Includes(line, int64(i), p); err != nil {
					return err
				}
				if c.Includes(append([]byte("y"), line...), int64(i), p) == nil || c.Includes(line, int64(i)+1, p) == nil {
					t.Fatalf("of %d records, record %d is proven where it is not", c.Size, i)
				}
				if len(p) > 0 {
					p[0][3] ^= 1
					if c.Includes(line, int64(i), p) == nil {
						t.Fatal("a changed proof is taken")
					}
				}
			}
			for _, before := range checkpoints {
				p, err := audit.ProveConsistency(r, c.Size, before.Size)
				if err != nil {
					return err
				}
				if err := c.Continues(before, p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := checkpoints[3].Continues(checkpoints[9], nil); !errors.Is(err, errs.ErrAudit) {
		t.Fatalf("a log that shrank: %v", err)
	}
}

func TestAnotherHistoryIsRefused(t *testing.T) {
	b, other := newBook(t, 1), newBook(t, 1)
	for _, detail := range []string{"a", "b", "c", "d", "e"} {
		b.add(detail)
		other.add(strings.Replace(detail, "b", "B", 1))
	}
	seen := b.checkpoint()
	other.add("f")
	now := other.checkpoint()
	other.look(func(r storage.Reader) error {
		p, err := audit.ProveConsistency(r, now.Size, seen.Size)
		if err != nil {
			return err
		}
		if err := now.Continues(seen, p); !errors.Is(err, errs.ErrAudit) {
			t.Fatalf("a rewritten log: %v", err)
		}
		lines, err := audit.Records(r, 0, 100)
		if err != nil {
			return err
		}
		for _, bad := range [][][]byte{lines[:4], append(lines[:4:4], lines[5], lines[4]), append(lines[:5:5], []byte("{}"))} {
			if err := now.Verify(bad); !errors.Is(err, errs.ErrAudit) {
				t.Fatalf("other records: %v", err)
			}
		}
		return nil
	})
}

func TestCheckpointsAreSigned(t *testing.T) {
	b, other := newBook(t, 1), newBook(t, 2)
	b.add("a")
	text := b.checkpoint().Text
	for what, x := range map[string]struct {
		text, name string
		key        ed25519.PublicKey
	}{
		"another key":  {text, "k", other.public},
		"another name": {text, "l", b.public},
		"another size": {strings.Replace(text, "\n1\n", "\n2\n", 1), "k", b.public},
		"no signature": {text[:strings.Index(text, "—")], "k", b.public},
		"nothing":      {"", "k", b.public},
	} {
		if _, err := audit.Open(x.text, x.name, x.key); !errors.Is(err, errs.ErrAudit) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
