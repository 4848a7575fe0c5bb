package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// words is what the package bash-completion does for a script of cobra's, for
// machines without it: the words before the cursor, as typed.
const words = `
if ! declare -F _init_completion _get_comp_words_by_ref >/dev/null 2>&1; then
    __cryptflow_init_completion()
    {
        local line=${COMP_LINE:0:COMP_POINT}
        COMPREPLY=()
        read -ra words <<<"$line"
        [[ $line == *[[:space:]] ]] && words+=("")
        cword=$((${#words[@]} - 1))
        cur=${words[cword]}
        prev=${words[cword - 1]}
    }
fi
`

// addCompletion adds the command that prints scripts for shells.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	bash, _, err := root.Find([]string{"completion", "bash"})
	if err != nil {
		panic(err) // cobra has it
	}
	bash.Long = strings.Replace(bash.Long, `
This script depends on the 'bash-completion' package.
If it is not installed already, you can install it via your OS's package manager.
`, "", 1)
	print := bash.RunE
	bash.RunE = func(c *cobra.Command, args []string) error {
		if err := print(c, args); err != nil {
			return err
		}
		_, err := fmt.Fprint(c.OutOrStdout(), words)
		return err
	}
}
