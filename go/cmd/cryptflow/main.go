// Command cryptflow is the operator's toolbox.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func main() {
	root := &cobra.Command{
		Use:           "cryptflow",
		Short:         "Encrypted federated averaging",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "cryptflow:", err)
		os.Exit(1)
	}
}
