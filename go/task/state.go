package task

import (
	"fmt"
	"slices"

	"github.com/cryptflow/cryptflow/go/errs"
)

// State is where a round stands. The zero value is invalid.
type State uint8

// States, in the order in which a round passes through them. Until the key
// service has released its set a round may end in RoundAborted instead.
const (
	RoundCreated       State = 1
	RoundKeyed         State = 2 // a signed specification exists
	RoundCollecting    State = 3 // the first commit starts the deadline
	RoundSealed        State = 4 // the set is fixed
	RoundFolding       State = 5 // the key service released the set
	RoundPublished     State = 6
	RoundKeysDestroyed State = 7
	RoundAborted       State = 8
)

var stateNames = map[State]string{
	RoundCreated: "CREATED", RoundKeyed: "KEYED", RoundCollecting: "COLLECTING", RoundSealed: "SEALED",
	RoundFolding: "FOLDING", RoundPublished: "PUBLISHED", RoundKeysDestroyed: "KEYS_DESTROYED", RoundAborted: "ABORTED",
}

func (s State) String() string {
	if n, ok := stateNames[s]; ok {
		return n
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// transitions are all there are. Folding begins when the key service has
// released the set; release and abort exclude each other, so from there on a
// round can only be published.
var transitions = map[State][]State{
	RoundCreated:    {RoundKeyed, RoundAborted},
	RoundKeyed:      {RoundCollecting, RoundAborted},
	RoundCollecting: {RoundSealed, RoundAborted},
	RoundSealed:     {RoundFolding, RoundAborted},
	RoundFolding:    {RoundPublished},
	RoundPublished:  {RoundKeysDestroyed},
}

// Final reports whether nothing follows the state.
func (s State) Final() bool { return len(transitions[s]) == 0 }

// Step returns ErrState unless a round may go from s to next.
func (s State) Step(next State) error {
	if slices.Contains(transitions[s], next) {
		return nil
	}
	return fmt.Errorf("a round does not go from %v to %v: %w", s, next, errs.ErrState)
}
