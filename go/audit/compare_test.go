package audit_test

import (
	"fmt"
	"testing"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/storage"
)

func (b *book) records() (out [][]byte) {
	b.t.Helper()
	b.look(func(r storage.Reader) (err error) {
		out, err = audit.Records(r, 0, 1<<20)
		return err
	})
	return out
}

// TestTwoHistoriesOfOneLogAreAFork: a key service that shows one party another
// history than the other is caught by whoever compares their checkpoints.
func TestTwoHistoriesOfOneLogAreAFork(t *testing.T) {
	one, two := newBook(t, 1), newBook(t, 1) // one key
	const common, most = 5, 9
	var of [2][]*audit.Checkpoint
	for i := range most {
		if i < common {
			one.add(fmt.Sprint(i))
			two.add(fmt.Sprint(i))
		} else {
			one.add(fmt.Sprint(i))
			two.add(fmt.Sprint(i, " rewritten"))
		}
		of[0], of[1] = append(of[0], one.checkpoint()), append(of[1], two.checkpoint())
	}
	records := [2][][]byte{one.records(), two.records()}
	for i := range most {
		for j := range most {
			for _, other := range []int{0, 1} {
				a, b := of[0][i], of[other][j]
				want := audit.Extends
				switch {
				case other == 1 && min(i, j) >= common:
					want = audit.Fork
				case i == j:
					want = audit.Same
				}
				// The larger log is the first's where it is larger.
				larger := records[other][:b.Size]
				if a.Size > b.Size {
					larger = records[0][:a.Size]
				}
				got, err := audit.Compare(a, b, larger)
				if err != nil || got != want {
					t.Fatalf("%d records and %d of log %d: %v, want %v: %v", i+1, j+1, other, got, want, err)
				}
				if i != j {
					want = audit.Undecided
				}
				if got, err := audit.Compare(a, b, nil); err != nil || got != want {
					t.Fatalf("%d and %d without records: %v, want %v: %v", i+1, j+1, got, want, err)
				}
			}
		}
	}
	if _, err := audit.Compare(of[0][1], of[0][3], records[0]); err == nil {
		t.Fatal("records of another size were taken")
	}
	empty := newBook(t, 1).checkpoint()
	if got, err := audit.Compare(of[0][3], empty, nil); err != nil || got != audit.Extends {
		t.Fatalf("an empty log: %v, %v", got, err)
	}
}
