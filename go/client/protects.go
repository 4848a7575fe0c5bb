package client

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/task"
)

// Protects says in one line what a task's smallest cohort protects against.
func Protects(t *task.Task) string {
	n, members := int(t.MinCohort), len(t.Members)
	line := fmt.Sprintf("no sum of fewer than %d clients is opened: an aggregator needs %d of %d clients on its side to single one out",
		n, n-1, members)
	if 2*n < members {
		line += fmt.Sprintf("; with min_cohort %d it would need %d", (members+1)/2, (members+1)/2-1)
	}
	return line
}
