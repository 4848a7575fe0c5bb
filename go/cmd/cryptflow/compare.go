package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
)

// Exit statuses of "audit compare" beside 0, the same, and 1, an error.
const (
	exitExtends   = 3
	exitFork      = 4
	exitUndecided = 5
)

// status ends the program with an exit status and no further words.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// history is a verified checkpoint and, where they are at hand, its records.
type history struct {
	name, path, key string
	checkpoint      *audit.Checkpoint
	records         [][]byte // nil: a checkpoint alone
}

func readFile(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w: %w", err, errs.ErrArgument)
	}
	return b, nil
}

// readHistory reads and verifies an exported log, or a file with a checkpoint
// alone. The key is the exported one where none is named.
func readHistory(path, key string) (*history, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w: %w", err, errs.ErrArgument)
	}
	h := &history{path: path, key: key}
	file := path
	if info.IsDir() {
		file = filepath.Join(path, checkpointFile)
	}
	raw, err := readFile(filepath.Join(filepath.Dir(file), keyFile))
	if err == nil && (info.IsDir() || key == "") {
		var who exported
		if err := json.Unmarshal(raw, &who); err != nil {
			return nil, fmt.Errorf("%s: %v: %w", keyFile, err, errs.ErrAudit)
		}
		if h.name = who.Name; h.key == "" {
			h.key = who.Key
		}
	} else if info.IsDir() || !errors.Is(err, fs.ErrNotExist) && err != nil {
		return nil, err
	}
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	if h.name == "" {
		if h.name, err = audit.NameOf(string(text)); err != nil {
			return nil, err
		}
	}
	if h.key == "" {
		return nil, fmt.Errorf("%s does not say whose key signed it; name the key with --key: %w", path, errs.ErrArgument)
	}
	public, err := config.ParseKey(h.key)
	if err != nil {
		return nil, err
	}
	if h.checkpoint, err = audit.Open(string(text), h.name, public[:]); err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return h, nil
	}
	lines, err := readFile(filepath.Join(path, logFile))
	if err != nil {
		return nil, err
	}
	h.records = [][]byte{}
	if len(lines) > 1 {
		h.records = bytes.Split(bytes.TrimSuffix(lines, []byte("\n")), []byte("\n"))
	}
	return h, h.checkpoint.Verify(h.records)
}

func auditCompare() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "compare A B", Short: "Say whether two checkpoints or logs are of one history", Args: cobra.ExactArgs(2),
		Long: `Say whether two checkpoints or logs are of one history.

A and B are exported logs (folders) or files with one checkpoint each, such as
a client's report keeps. The exit status is 0 when both are the same, 3 when one
extends the other, 4 when the key service signed two histories (a fork), 5 when
the records of the larger one are needed and missing, and 1 after any error. A
fork needs no more proof than the two files. Name the key service's public key
with --key: without it, whoever wrote the files chose it.`,
		Example: "  cryptflow audit compare audit-monday audit-tuesday --key $KEY",
		RunE: func(c *cobra.Command, args []string) error {
			return compare(c.OutOrStdout(), args[0], args[1], key)
		},
	}
	c.Flags().StringVar(&key, "key", "", "the key service's public key (default: the one exported with the logs)")
	return c
}

func compare(out io.Writer, first, second, key string) error {
	var both [2]*history
	for i, path := range []string{first, second} {
		h, err := readHistory(path, key)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		both[i] = h
	}
	a, b := both[0], both[1]
	if a.name != b.name || a.key != b.key {
		return fmt.Errorf("%s is of %s with key %.12s…, %s of %s with key %.12s…; only logs of one key service can be"+
			" compared: %w", a.path, a.name, a.key, b.path, b.name, b.key, errs.ErrArgument)
	}
	small, large := a, b
	if small.checkpoint.Size > large.checkpoint.Size {
		small, large = b, a
	}
	relation, err := audit.Compare(small.checkpoint, large.checkpoint, large.records)
	if err != nil {
		return err
	}
	var end error
	switch relation {
	case audit.Same:
		fmt.Fprintf(out, "same: both have %d records and root %s\n", a.checkpoint.Size, a.checkpoint.Root)
	case audit.Extends:
		fmt.Fprintf(out, "extends: %s has %d records, the first %d of which are those of %s\n",
			large.path, large.checkpoint.Size, small.checkpoint.Size, small.path)
		end = status(exitExtends)
	case audit.Fork:
		fmt.Fprintf(out, "fork: %s signed two histories that exclude each other; keep both files, they are the proof\n",
			a.name)
		end = status(exitFork)
	default:
		fmt.Fprintf(out, "undecided: give the exported log of %s, not its checkpoint alone\n", large.path)
		end = status(exitUndecided)
	}
	if key == "" {
		fmt.Fprintln(out, "the key came with the files: whoever wrote them chose it; name the key service's key with --key")
	}
	return end
}
