package encoding

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
)

// ClearCanaries writes zero to count coefficients from the given one on: those
// of a control chunk by which the key service tells whose key it is under.
func ClearCanaries(words [][]uint64, from, count int) {
	for w := range words {
		clear(words[w][from : from+count])
	}
}

// CheckCanaries returns ErrDecrypt unless the sum of such coefficients is zero.
func CheckCanaries(words [][]uint64, from, count int) error {
	rest := uint64(0)
	for w := range words {
		for _, v := range words[w][from : from+count] {
			rest |= v
		}
	}
	if rest != 0 {
		return fmt.Errorf("a canary of the control chunk is not zero: %w", errs.ErrDecrypt)
	}
	return nil
}
