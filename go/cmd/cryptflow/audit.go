package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/errs"
)

// Files of an exported log.
const (
	logFile        = "records.jsonl"
	checkpointFile = "checkpoint"
	keyFile        = "key.json"
)

// exported names who signed an exported log.
type exported struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

func auditCommand() *cobra.Command {
	a := &cobra.Command{Use: "audit", Short: "Export and verify the key service's log of decisions"}
	var profile, folder string
	export := &cobra.Command{
		Use: "export", Short: "Fetch the log and its checkpoint into a folder, verified", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withAdmin(c, profile, func(ctx context.Context, a *client.Admin) error {
				l, err := a.Audit(ctx)
				if err != nil {
					return err
				}
				return export(c.OutOrStdout(), folder, l)
			})
		},
	}
	export.Flags().StringVar(&profile, "profile", "", "profile of an admin (default: CRYPTFLOW_PROFILE)")
	export.Flags().StringVar(&folder, "out", "audit", "folder for the log")
	var key string
	var show bool
	verify := &cobra.Command{
		Use: "verify FOLDER", Short: "Verify an exported log against its checkpoint, offline", Args: cobra.ExactArgs(1),
		Long: "Recomputes the Merkle tree over every record and compares it with the signed\ncheckpoint. Name the key service's public key with --key to be sure whose log it is;\ncryptflow task show prints it.",
		RunE: func(c *cobra.Command, args []string) error { return verify(c.OutOrStdout(), args[0], key, show) },
	}
	verify.Flags().StringVar(&key, "key", "", "the key service's public key (default: the one exported with the log)")
	verify.Flags().BoolVar(&show, "show", false, "print the records")
	a.AddCommand(export, verify, auditCompare())
	return a
}

func export(out io.Writer, folder string, l *client.Log) error {
	who, err := json.Marshal(exported{l.Name, l.Key.String()})
	if err != nil {
		return fmt.Errorf("writing the log: %w", errs.ErrInternal)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("writing the log: %v: %w", err, errs.ErrArgument)
	}
	lines := append(bytes.Join(l.Records, []byte("\n")), '\n')
	for name, b := range map[string][]byte{logFile: lines, checkpointFile: []byte(l.Checkpoint), keyFile: append(who, '\n')} {
		if err := os.WriteFile(filepath.Join(folder, name), b, 0o644); err != nil {
			return fmt.Errorf("writing the log: %v: %w", err, errs.ErrArgument)
		}
	}
	fmt.Fprintf(out, "%d records in %s; verify with: cryptflow audit verify %s\n", len(l.Records), folder, folder)
	return nil
}

func verify(out io.Writer, folder, key string, show bool) error {
	h, err := readHistory(folder, key)
	if err != nil {
		return err
	}
	if show {
		if err := printRecords(out, h.records); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "verified: %d records of %s, root %s\n", h.checkpoint.Size, h.name, h.checkpoint.Root)
	if key == "" {
		fmt.Fprintln(out, "the key came with the log: this proves nothing about forks, nor whose log it is;"+
			" name the key service's key with --key")
	}
	return nil
}

func printRecords(out io.Writer, records [][]byte) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tEVENT\tTASK\tROUND\tCLIENTS\tDETAIL")
	for i, line := range records {
		var r audit.Record
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("record %d: %v: %w", i, err, errs.ErrAudit)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", r.Time.Format("2006-01-02 15:04:05"), r.Event, r.Task, r.Round, len(r.Clients), r.Detail)
	}
	return w.Flush()
}
