package audit_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
)

const fuzzRecords = 11

// history is a log of some records, with checkpoints of every size.
func history(f *testing.F) (b *book, checkpoints []*audit.Checkpoint, lines [][]byte) {
	f.Helper()
	b = newBook(f, 3)
	checkpoints = append(checkpoints, b.checkpoint())
	for i := range fuzzRecords {
		b.add(string(rune('a' + i)))
		checkpoints = append(checkpoints, b.checkpoint())
	}
	b.look(func(r storage.Reader) (err error) {
		lines, err = audit.Records(r, 0, 100)
		return err
	})
	return b, checkpoints, lines
}

// FuzzCheckpoint: a checkpoint that opens says what the key service signed.
func FuzzCheckpoint(f *testing.F) {
	b, checkpoints, _ := history(f)
	signed := map[int64]*audit.Checkpoint{}
	for _, c := range checkpoints {
		signed[c.Size] = c
		f.Add(c.Text)
	}
	text := checkpoints[3].Text
	f.Add(text + text)
	f.Add(text[:len(text)-2] + "\n")
	f.Add("cryptflow/kms/k\n-1\n\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := audit.Open(text, "k", b.public)
		if err != nil {
			if !errors.Is(err, errs.ErrAudit) {
				t.Fatal(err)
			}
			return
		}
		if want := signed[c.Size]; want == nil || want.Root != c.Root {
			t.Fatalf("nobody signed a log of %d records with this root", c.Size)
		}
	})
}

func hashesOf(b []byte) [][]byte {
	var out [][]byte
	for ; len(b) >= 32; b = b[32:] {
		out = append(out, b[:32])
	}
	if len(b) > 0 {
		out = append(out, b)
	}
	return out
}

// FuzzProofs: a proof shows a record where it stands and nothing else, and a
// log continues itself and no other.
func FuzzProofs(f *testing.F) {
	b, checkpoints, lines := history(f)
	now := checkpoints[fuzzRecords]
	b.look(func(r storage.Reader) error {
		for i, line := range lines {
			p, err := audit.ProveRecord(r, now.Size, int64(i))
			if err != nil {
				return err
			}
			f.Add(line, int64(i), bytes.Join(p, nil), int64(i))
			p, err = audit.ProveConsistency(r, now.Size, int64(i))
			if err != nil {
				return err
			}
			f.Add(line, int64(i)+1, bytes.Join(p, nil), int64(i))
		}
		return nil
	})
	f.Add([]byte{}, int64(-1), make([]byte, 33), int64(-1))
	f.Add([]byte{}, int64(1)<<62, make([]byte, 129*32), int64(fuzzRecords))
	f.Fuzz(func(t *testing.T, record []byte, index int64, proof []byte, before int64) {
		p := hashesOf(proof)
		if err := now.Includes(record, index, p); err == nil {
			if index < 0 || index >= fuzzRecords || !bytes.Equal(record, lines[index]) {
				t.Fatalf("record %d is proven to be another", index)
			}
		} else if !errors.Is(err, errs.ErrAudit) {
			t.Fatal(err)
		}
		if before < 0 || before > fuzzRecords {
			return
		}
		forged := *checkpoints[before]
		if len(record) > 0 {
			forged.Root[0] ^= record[0]
		}
		if err := now.Continues(&forged, p); err == nil {
			if before > 0 && forged.Root != checkpoints[before].Root {
				t.Fatal("a log continues one that it does not")
			}
		} else if !errors.Is(err, errs.ErrAudit) {
			t.Fatal(err)
		}
	})
}

// FuzzRecords: only the log's own records verify.
func FuzzRecords(f *testing.F) {
	_, checkpoints, lines := history(f)
	now := checkpoints[fuzzRecords]
	f.Add(bytes.Join(lines, []byte("\n")))
	f.Add(bytes.Join(lines[1:], []byte("\n")))
	f.Add([]byte("\n\n\n\n\n\n\n\n\n\n"))
	f.Fuzz(func(t *testing.T, all []byte) {
		got := bytes.Split(all, []byte("\n"))
		if err := now.Verify(got); err == nil {
			if !bytes.Equal(all, bytes.Join(lines, []byte("\n"))) {
				t.Fatal("other records verify")
			}
		} else if !errors.Is(err, errs.ErrAudit) {
			t.Fatal(err)
		}
	})
}
