// Package audit is the key service's log of what it decided: a Merkle log
// over golang.org/x/mod's sumdb/tlog, its checkpoints signed notes.
//
// # Security
//
// A record cannot be changed or taken out without changing every later
// checkpoint. Who keeps a checkpoint can demand a proof that the log of today
// continues the log of then. Records say who, when and what was decided, and
// never carry key material.
//
// # Compatibility
//
// A record is one line of JSON; its bytes are what is hashed. A checkpoint is
// three lines (origin, size, base64 of the root) and, since key services count
// epochs, a fourth ("epoch 7"), signed as a note with Ed25519.
package audit

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
)

// Event is what a record tells.
type Event string

// Events.
const (
	TaskCreated   Event = "task-created"
	SpecSigned    Event = "spec-signed"
	Released      Event = "released"
	Aborted       Event = "aborted"
	Refused       Event = "refused"
	Published     Event = "published"
	Disagreement  Event = "result-disagreement"
	KeysDestroyed Event = "keys-destroyed"
	// Excluded is a set that can be decided without the clients it lists.
	Excluded Event = "excluded"
	// Opened and Failed are verdicts of a cohort.
	Opened Event = "opened"
	Failed Event = "failed"
	// Lost is a round that can never be decided.
	Lost Event = "lost"
	// Started begins an epoch, Recovered one after a restored backup.
	Started   Event = "started"
	Recovered Event = "recovered"
)

// Record is one entry. Fields that do not apply are empty.
type Record struct {
	Time     time.Time `json:"time"`
	Event    Event     `json:"event"`
	Task     string    `json:"task"`
	Round    uint32    `json:"round"`
	Spec     string    `json:"spec,omitempty"`
	Manifest string    `json:"manifest,omitempty"`
	Clients  []string  `json:"clients,omitempty"`
	Missing  []string  `json:"missing,omitempty"` // announced, and not in the set
	By       string    `json:"by,omitempty"`
	Detail   string    `json:"detail,omitempty"`
}

const (
	records = "audit/record"
	hashes  = "audit/hash"
	state   = "audit/state"
	size    = "size"
	epoch   = "epoch"
)

// Epoch is how often the key service that writes the log was started; 0 in a log
// from before epochs were counted.
func Epoch(r storage.Reader) (uint64, error) {
	b, err := r.Get(state, epoch)
	if err != nil || b == nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("epoch of the log: %w", errs.ErrAudit)
	}
	return n, nil
}

// SetEpoch begins an epoch.
func SetEpoch(w storage.Writer, n uint64) error {
	return w.Put(state, epoch, strconv.AppendUint(nil, n, 10))
}

// Root is the root of the log's first n records.
func Root(r storage.Reader, n int64) (tlog.Hash, error) {
	root, err := tlog.TreeHash(n, reader(r))
	if err != nil {
		return root, fmt.Errorf("root of the audit log: %w", err)
	}
	return root, nil
}

// MaxProof bounds the hashes of one proof.
const MaxProof = 128

func key(n int64) string { return fmt.Sprintf("%016x", n) }

// reader serves stored hashes from a ledger.
func reader(r storage.Reader) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, n := range indexes {
			b, err := r.Get(hashes, key(n))
			if err != nil {
				return nil, err
			}
			if len(b) != tlog.HashSize {
				return nil, fmt.Errorf("hash %d of the log is missing: %w", n, errs.ErrAudit)
			}
			out[i] = tlog.Hash(b)
		}
		return out, nil
	})
}

// Size is the number of records.
func Size(r storage.Reader) (int64, error) {
	b, err := r.Get(state, size)
	if err != nil || b == nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("size of the log: %w", errs.ErrAudit)
	}
	return n, nil
}

// Append adds a record within a transaction and returns its index.
func Append(w storage.Writer, r Record) (int64, error) {
	r.Time = r.Time.UTC().Truncate(time.Millisecond)
	line, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("writing an audit record: %w", errs.ErrInternal)
	}
	n, err := Size(w)
	if err != nil {
		return 0, err
	}
	added, err := tlog.StoredHashes(n, line, reader(w))
	if err != nil {
		return 0, fmt.Errorf("extending the audit log: %w", err)
	}
	first := tlog.StoredHashIndex(0, n)
	for i, h := range added {
		if err := w.Put(hashes, key(first+int64(i)), h[:]); err != nil {
			return 0, err
		}
	}
	if err := w.Put(records, key(n), line); err != nil {
		return 0, err
	}
	return n, w.Put(state, size, strconv.AppendInt(nil, n+1, 10))
}

// Records returns up to limit records from an index on.
func Records(r storage.Reader, from int64, limit int) ([][]byte, error) {
	n, err := Size(r)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for i := max(from, 0); i < n && len(out) < limit; i++ {
		b, err := r.Get(records, key(i))
		if err != nil {
			return nil, err
		}
		if b == nil {
			return nil, fmt.Errorf("record %d is missing: %w", i, errs.ErrAudit)
		}
		out = append(out, b)
	}
	return out, nil
}

// epochLine begins a checkpoint's fourth line.
const epochLine = "epoch "

// Signer signs checkpoints.
type Signer struct {
	origin string
	signer note.Signer
}

// origin of a key service's log.
func originOf(name string) string { return "cryptflow/kms/" + name }

// NewSigner makes a signer for the key service of the given name.
func NewSigner(name string, private ed25519.PrivateKey) (*Signer, error) {
	verifier, err := note.NewEd25519VerifierKey(originOf(name), private.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("audit signer: %v: %w", err, errs.ErrConfig)
	}
	parts := strings.SplitN(verifier, "+", 3)
	text := "PRIVATE+KEY+" + parts[0] + "+" + parts[1] + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, private.Seed()...))
	s, err := note.NewSigner(text)
	if err != nil {
		return nil, fmt.Errorf("audit signer: %w", errs.ErrConfig)
	}
	return &Signer{originOf(name), s}, nil
}

// Checkpoint signs the log as it stands.
func (s *Signer) Checkpoint(r storage.Reader) (string, int64, error) {
	n, err := Size(r)
	if err != nil {
		return "", 0, err
	}
	root, err := Root(r, n)
	if err != nil {
		return "", 0, err
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", s.origin, n, root)
	current, err := Epoch(r)
	if err != nil {
		return "", 0, err
	}
	if current > 0 {
		text += fmt.Sprintf("%s%d\n", epochLine, current)
	}
	b, err := note.Sign(&note.Note{Text: text}, s.signer)
	if err != nil {
		return "", 0, fmt.Errorf("signing a checkpoint: %w", errs.ErrInternal)
	}
	return string(b), n, nil
}

// ProveRecord shows that record index stands in the log of the given size.
func ProveRecord(r storage.Reader, size, index int64) ([][]byte, error) {
	p, err := tlog.ProveRecord(size, index, reader(r))
	return flatten(p), err
}

// ProveConsistency shows that the log of one size continues that of another.
func ProveConsistency(r storage.Reader, size, before int64) ([][]byte, error) {
	if before <= 0 || before >= size {
		return nil, nil
	}
	p, err := tlog.ProveTree(size, before, reader(r))
	return flatten(p), err
}

func flatten(p []tlog.Hash) [][]byte {
	out := make([][]byte, len(p))
	for i, h := range p {
		out[i] = h[:]
	}
	return out
}
