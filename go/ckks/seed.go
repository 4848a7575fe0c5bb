package ckks

import (
	"crypto/rand"
	"fmt"
	"log/slog"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Seed is 32 secret bytes from which a key or the noise of a contribution is
// expanded. It never prints itself; encoders refuse it.
type Seed [32]byte

// NewSeed draws a seed from the system's generator.
func NewSeed() (Seed, error) {
	var s Seed
	if _, err := rand.Read(s[:]); err != nil {
		return Seed{}, fmt.Errorf("drawing a seed: %w", errs.ErrInternal)
	}
	return s, nil
}

const redacted = "seed(redacted)"

// String does not reveal the seed.
func (Seed) String() string { return redacted }

// GoString does not reveal the seed.
func (Seed) GoString() string { return redacted }

// Format does not reveal the seed, whatever the verb.
func (Seed) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue does not reveal the seed.
func (Seed) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses: a seed leaves memory only where code copies its bytes.
func (Seed) MarshalText() ([]byte, error) {
	return nil, fmt.Errorf("a seed is not written as text: %w", errs.ErrArgument)
}
