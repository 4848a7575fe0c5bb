package encoding

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// Entries of the control chunk. Those beyond are zero for now.
const (
	// ControlWeight is the client's weight: num_examples in sum-key, 1 in
	// shared-key, where the public weight multiplies it.
	ControlWeight = 0
	// ControlClipped is the number of the client's values that were clipped.
	ControlClipped = 1
	// Controls is the number of entries that carry something.
	Controls = 2
)

// MaxControl is the largest value of one client's entry.
const MaxControl = 1<<(params.Limbs*params.LimbBits) - 1

// EncodeControl writes the entries to words as three 16-bit limbs each, least
// significant first, one limb a coefficient.
func EncodeControl(words [][]uint64, entries []uint64) error {
	for k, v := range entries {
		if v > MaxControl {
			return fmt.Errorf("control entry %d does not fit %d bits: %w", k, params.Limbs*params.LimbBits, errs.ErrLimit)
		}
		for limb := range params.Limbs {
			i := k*params.Limbs + limb
			for w := range words {
				words[w][i] = 0
			}
			words[0][i] = v >> (limb * params.LimbBits) & (1<<params.LimbBits - 1)
		}
	}
	return nil
}

// DecodeControl reads the sums of the first count entries from words. It
// returns ErrDecrypt when a limb exceeds what weight terms can sum to.
func DecodeControl(words [][]uint64, count int, weight uint32) ([]uint64, error) {
	entries := make([]uint64, count)
	for k := range entries {
		carry := uint64(0)
		for limb := range params.Limbs {
			i := k*params.Limbs + limb
			rest := uint64(0)
			for w := 1; w < len(words); w++ {
				rest |= words[w][i]
			}
			v := words[0][i]
			if rest != 0 || v > uint64(weight)*(1<<params.LimbBits-1) {
				return nil, fmt.Errorf("control entry %d holds more than %d terms can sum to: %w", k, weight, errs.ErrDecrypt)
			}
			v += carry
			entries[k] |= v & (1<<params.LimbBits - 1) << (limb * params.LimbBits)
			carry = v >> params.LimbBits
		}
		if carry >= 1<<(64-params.Limbs*params.LimbBits) {
			return nil, fmt.Errorf("control entry %d exceeds 64 bits: %w", k, errs.ErrDecrypt)
		}
		entries[k] |= carry << (params.Limbs * params.LimbBits)
	}
	return entries, nil
}
