// Command cryptflow is the operator's toolbox.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cryptflow/cryptflow/go/errs"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run()) }

// run executes the command line and returns the exit status.
func run() int {
	root := &cobra.Command{
		Use:           "cryptflow",
		Short:         "Encrypted federated averaging: the server adds updates that it cannot read",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(planCommand(), upCommand(), aggregatorCommand(), kmsCommand(), taskCommand(), doctorCommand(), auditCommand(), caCommand())
	addCompletion(root)
	// Descriptions of flags fit a terminal and a page.
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", ".FlagUsagesWrapped 100 "))
	root.SetFlagErrorFunc(flagError)
	if err := root.Execute(); err != nil {
		var end status
		if errors.As(err, &end) {
			return int(end)
		}
		code := ""
		if s := errs.Find(err); s != errs.ErrInternal {
			code = " [" + s.Code + "]"
		}
		fmt.Fprintf(os.Stderr, "cryptflow: %v%s\n", err, code)
		return 1
	}
	return 0
}

// flagError says what is wrong with a number without Go's names for it.
func flagError(_ *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	var number *strconv.NumError
	if !errors.As(err, &value) || !errors.As(err, &number) {
		return err
	}
	reason := "is no number that it takes"
	if errors.Is(number, strconv.ErrRange) {
		reason = "is out of range"
	}
	return fmt.Errorf("--%s: %q %s: %w", value.GetFlag().Name, value.GetValue(), reason, errs.ErrArgument)
}
