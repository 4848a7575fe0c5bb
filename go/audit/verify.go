package audit

import (
	"crypto/ed25519"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Checkpoint is a verified statement of the key service about its log.
type Checkpoint struct {
	Size  int64
	Root  tlog.Hash
	Epoch uint64 // of the key service; 0 in one from before epochs were counted
	Text  string // as signed
}

// Open verifies a checkpoint's signature and form.
func Open(text, name string, public ed25519.PublicKey) (*Checkpoint, error) {
	vkey, err := note.NewEd25519VerifierKey(originOf(name), public)
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", errs.ErrAudit)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", errs.ErrAudit)
	}
	n, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		return nil, fmt.Errorf("the checkpoint is not signed by the key service %s: %w", name, errs.ErrAudit)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 || len(lines) > 5 || lines[0] != originOf(name) || lines[len(lines)-1] != "" {
		return nil, fmt.Errorf("the checkpoint has another form: %w", errs.ErrAudit)
	}
	current := uint64(0)
	if len(lines) == 5 {
		number, ok := strings.CutPrefix(lines[3], epochLine)
		if current, err = strconv.ParseUint(number, 10, 64); err != nil || !ok || current == 0 || number[0] == '0' || number[0] == '+' {
			return nil, fmt.Errorf("the checkpoint has no epoch: %w", errs.ErrAudit)
		}
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return nil, fmt.Errorf("the checkpoint has no size: %w", errs.ErrAudit)
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return nil, fmt.Errorf("the checkpoint has no root: %w", errs.ErrAudit)
	}
	return &Checkpoint{Size: size, Root: root, Epoch: current, Text: text}, nil
}

// NameOf is the name of the key service that a checkpoint claims to be of. It
// verifies nothing: Open does.
func NameOf(text string) (string, error) {
	line, _, _ := strings.Cut(text, "\n")
	name, ok := strings.CutPrefix(line, originOf(""))
	if !ok || name == "" {
		return "", fmt.Errorf("this is no checkpoint of a key service: %w", errs.ErrAudit)
	}
	return name, nil
}

func unflatten(in [][]byte) ([]tlog.Hash, error) {
	if len(in) > MaxProof {
		return nil, fmt.Errorf("a proof of %d hashes: %w", len(in), errs.ErrAudit)
	}
	out := make([]tlog.Hash, len(in))
	for i, b := range in {
		if len(b) != tlog.HashSize {
			return nil, fmt.Errorf("a proof with a hash of %d bytes: %w", len(b), errs.ErrAudit)
		}
		out[i] = tlog.Hash(b)
	}
	return out, nil
}

// Includes verifies that a record stands at an index of the log.
func (c *Checkpoint) Includes(record []byte, index int64, proof [][]byte) error {
	p, err := unflatten(proof)
	if err != nil {
		return err
	}
	if index < 0 || index >= c.Size || tlog.CheckRecord(p, c.Size, c.Root, index, tlog.RecordHash(record)) != nil {
		return fmt.Errorf("the log does not prove the decision: %w", errs.ErrAudit)
	}
	return nil
}

// Continues verifies that the log contains the whole of an earlier one.
func (c *Checkpoint) Continues(before *Checkpoint, proof [][]byte) error {
	p, err := unflatten(proof)
	switch {
	case err != nil:
		return err
	case before == nil || before.Size == 0:
		return nil
	case c.Size < before.Size:
		return fmt.Errorf("the log shrank from %d to %d records: %w", before.Size, c.Size, errs.ErrAudit)
	case c.Epoch < before.Epoch:
		return fmt.Errorf("the key service went back from epoch %d to %d: %w", before.Epoch, c.Epoch, errs.ErrAudit)
	case c.Size == before.Size && c.Root == before.Root:
		return nil
	case c.Size == before.Size || tlog.CheckTree(p, c.Size, c.Root, before.Size, before.Root) != nil:
		return fmt.Errorf("the log was rewritten since its %d records were seen: %w", before.Size, errs.ErrAudit)
	}
	return nil
}

// Verify recomputes the whole log and compares it with the checkpoint.
func (c *Checkpoint) Verify(lines [][]byte) error {
	if int64(len(lines)) != c.Size {
		return fmt.Errorf("%d records, the checkpoint speaks of %d: %w", len(lines), c.Size, errs.ErrAudit)
	}
	root, err := rootOf(lines)
	if err != nil {
		return err
	}
	if root != c.Root {
		return fmt.Errorf("the records are not those of the checkpoint: %w", errs.ErrAudit)
	}
	return nil
}
