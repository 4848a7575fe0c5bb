// Package params names the parameter presets, refuses whatever lies outside
// the published security tables, and derives the geometry of a task: scale,
// headroom, lanes, chunks, noise bound. It is pure: no randomness, no state.
//
// # Security
//
// Every scheme passes [CheckSecurity] when it is constructed; there is no
// override. The limits are those of Bossuat et al., "Security Guidelines for
// Implementing Homomorphic Encryption", ePrint 2024/463, for 128-bit classical
// security with a discrete Gaussian secret.
//
// # Compatibility
//
// Preset, mode, encoding and rounding ids are written to the wire and never
// change meaning. Zero is invalid for each of them.
package params

import (
	"fmt"
	"math/big"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Sigma is the width of the discrete Gaussian from which secrets and errors
// are drawn: 3.2·√2, so that a sum over two honest clients still hides each
// with width 3.2 (CRYPTOGRAPHY, §3.2 of docs/spec.md).
const Sigma = 4.53

// PresetID identifies a preset on the wire.
type PresetID uint8

// Presets. The zero value is invalid.
const (
	N2048Q52  PresetID = 1
	N4096Q102 PresetID = 2
	N8192Q204 PresetID = 3
)

// Mode says who holds which key.
type Mode uint8

// Modes. The zero value is invalid.
const (
	// SumKey: every client has a secret of its own; only the sum of the
	// cohort's secrets is ever released.
	SumKey Mode = 1
	// SharedKey: one CKKS key pair a round, made by the key service.
	SharedKey Mode = 2
)

// Encoding says what the coefficients of a frame carry.
type Encoding uint8

// Encodings. The zero value is invalid.
const (
	Lanes     Encoding = 1 // packed fixed-point integers, see Scheme
	Control   Encoding = 2 // one 16-bit limb a coefficient
	PublicKey Encoding = 3 // the b half of a public encryption key
	Slots     Encoding = 4 // CKKS slots, N/2 values a polynomial
	SlotsReal Encoding = 5 // CKKS slots of the conjugate-invariant ring, N values
)

// Values reports whether the encoding is one of updates.
func (e Encoding) Values() bool { return e == Lanes || e == Slots || e == SlotsReal }

func (e Encoding) String() string {
	switch e {
	case Lanes:
		return "lanes"
	case Control:
		return "control"
	case PublicKey:
		return "public key"
	case Slots:
		return "slots"
	case SlotsReal:
		return "slots-ci"
	}
	return fmt.Sprintf("encoding(%d)", uint8(e))
}

// ParseEncoding is the inverse of Encoding.String for encodings of updates.
func ParseEncoding(s string) (Encoding, error) {
	for _, e := range []Encoding{Lanes, Slots, SlotsReal} {
		if e.String() == s {
			return e, nil
		}
	}
	return 0, fmt.Errorf("no encoding %q; there are lanes, slots and slots-ci: %w", s, errs.ErrParameters)
}

// Rounding says how a scaled value becomes an integer.
type Rounding uint8

// Roundings. The zero value is invalid.
const (
	Stochastic  Rounding = 1
	NearestEven Rounding = 2
)

// Preset is a ring and its modulus. Values are shared: do not modify them.
type Preset struct {
	ID     PresetID
	Name   string
	LogN   int
	Primes []uint64 // q_j ≡ 1 mod 2N, in wire order
	Psi    []uint64 // primitive 2N-th root of unity modulo q_j
	Width  int      // bits of every residue on the wire
	// Spread covers the tail of a key's norm in the noise of public-key
	// encryption.
	Spread float64
}

// N is the ring degree.
func (p *Preset) N() int { return 1 << p.LogN }

// Q returns the modulus Π q_j as a new integer.
func (p *Preset) Q() *big.Int {
	q := big.NewInt(1)
	for _, v := range p.Primes {
		q.Mul(q, new(big.Int).SetUint64(v))
	}
	return q
}

var presets = []*Preset{
	{
		ID: N2048Q52, Name: "n2048-q52", LogN: 11, Width: 52, Spread: 1.17,
		Primes: []uint64{4503599627366401},
		Psi:    []uint64{1603522730699327},
	},
	{
		ID: N4096Q102, Name: "n4096-q102", LogN: 12, Width: 51, Spread: 1.12,
		Primes: []uint64{2251799813554177, 2251799813480449},
		Psi:    []uint64{1742162739775129, 113012996189754},
	},
	{
		ID: N8192Q204, Name: "n8192-q204", LogN: 13, Width: 51, Spread: 1.09,
		Primes: []uint64{2251799813554177, 2251799813472257, 2251799813406721, 2251799812980737},
		Psi:    []uint64{1645362752154447, 1541033361238540, 2106520799132960, 2148850080236624},
	},
}

// Presets returns every preset, smallest ring first.
func Presets() []*Preset { return append([]*Preset(nil), presets...) }

// ByName returns the preset called name.
func ByName(name string) (*Preset, error) {
	for _, p := range presets {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no preset %q; there are n2048-q52, n4096-q102, n8192-q204: %w", name, errs.ErrParameters)
}

// ByID returns the preset with the given id.
func ByID(id PresetID) (*Preset, error) {
	for _, p := range presets {
		if p.ID == id {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no preset with id %d: %w", id, errs.ErrParameters)
}

func (m Mode) String() string {
	switch m {
	case SumKey:
		return "sum-key"
	case SharedKey:
		return "shared-key"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode is the inverse of Mode.String.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "sum-key":
		return SumKey, nil
	case "shared-key":
		return SharedKey, nil
	}
	return 0, fmt.Errorf("no mode %q; there are sum-key and shared-key: %w", s, errs.ErrParameters)
}

func (r Rounding) String() string {
	switch r {
	case Stochastic:
		return "stochastic"
	case NearestEven:
		return "nearest"
	}
	return fmt.Sprintf("rounding(%d)", uint8(r))
}

// ParseRounding is the inverse of Rounding.String.
func ParseRounding(s string) (Rounding, error) {
	switch s {
	case "stochastic":
		return Stochastic, nil
	case "nearest":
		return NearestEven, nil
	}
	return 0, fmt.Errorf("no rounding %q; there are stochastic and nearest: %w", s, errs.ErrParameters)
}
