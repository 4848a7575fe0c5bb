package audit

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Relation is how two checkpoints of one log stand to each other. The zero
// value is invalid.
type Relation int

// Relations.
const (
	Same      Relation = iota + 1 // one size, one root
	Extends                       // the larger log begins with the smaller
	Fork                          // no log has both: its signer showed two histories
	Undecided                     // the larger log's records are missing
)

func (r Relation) String() string {
	switch r {
	case Same:
		return "same"
	case Extends:
		return "extends"
	case Fork:
		return "fork"
	case Undecided:
		return "undecided"
	}
	return fmt.Sprintf("relation(%d)", int(r))
}

// Compare says how two verified checkpoints stand to each other. records are
// all records of the larger, verified against it, or nil when they are not at
// hand: sizes that differ then leave it Undecided.
func Compare(a, b *Checkpoint, records [][]byte) (Relation, error) {
	if a.Size > b.Size {
		a, b = b, a
	}
	switch {
	case a.Size == b.Size && a.Root == b.Root:
		return Same, nil
	case a.Size == b.Size:
		return Fork, nil
	case a.Size == 0:
		return Extends, nil
	case records == nil:
		return Undecided, nil
	case int64(len(records)) != b.Size:
		return 0, fmt.Errorf("%d records, the larger checkpoint speaks of %d: %w", len(records), b.Size, errs.ErrAudit)
	}
	root, err := rootOf(records[:a.Size])
	if err != nil {
		return 0, err
	}
	if root != a.Root {
		return Fork, nil
	}
	return Extends, nil
}

// rootOf computes the root of a log of records.
func rootOf(lines [][]byte) (tlog.Hash, error) {
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, n := range indexes {
			out[i] = stored[n]
		}
		return out, nil
	})
	for i, line := range lines {
		added, err := tlog.StoredHashes(int64(i), line, read)
		if err != nil {
			return tlog.Hash{}, fmt.Errorf("record %d: %v: %w", i, err, errs.ErrAudit)
		}
		stored = append(stored, added...)
	}
	root, err := tlog.TreeHash(int64(len(lines)), read)
	if err != nil {
		return root, fmt.Errorf("root of the log: %v: %w", err, errs.ErrAudit)
	}
	return root, nil
}
