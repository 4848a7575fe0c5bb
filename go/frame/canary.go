package frame

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// CanarySize is the length of what [Geometry.Canary] returns.
func (g Geometry) CanarySize() int {
	return len(g.Scheme.Primes) * BlockSize(g.Canaries, g.Scheme.Width)
}

// CanaryFrom is the first coefficient of the control chunk that is a canary.
func (g Geometry) CanaryFrom() int { return g.Controls * params.Limbs }

// Canary returns the canaries of a contribution's control frame: their
// residues, prime by prime, packed as in a frame of these coefficients alone.
func (g Geometry) Canary(control []byte) ([]byte, error) {
	h := g.Header(g.ControlIndex())
	p, err := Expect(control, h)
	if err != nil {
		return nil, err
	}
	if g.Canaries == 0 || h.Components != 1 {
		return nil, fmt.Errorf("a control chunk without canaries: %w", errs.ErrFrameContext)
	}
	out := make([]byte, g.CanarySize())
	block, residues := BlockSize(int(h.Coefficients), p.Width), make([]uint64, h.Coefficients)
	size := BlockSize(g.Canaries, p.Width)
	for j, q := range p.Primes {
		if !Unpack(residues, control[HeaderSize+j*block:][:block], p.Width, q) {
			return nil, Noncanonical(0, j)
		}
		Pack(out[j*size:], residues[g.CanaryFrom():], p.Width)
	}
	return out, nil
}

// CanaryResidues is the strict inverse of the packing of [Geometry.Canary]: the
// residues of each prime.
func (g Geometry) CanaryResidues(canary []byte) ([][]uint64, error) {
	if len(canary) != g.CanarySize() {
		return nil, fmt.Errorf("canaries of %d bytes, want %d: %w", len(canary), g.CanarySize(), errs.ErrFrame)
	}
	size := BlockSize(g.Canaries, g.Scheme.Width)
	out := make([][]uint64, len(g.Scheme.Primes))
	for j, q := range g.Scheme.Primes {
		out[j] = make([]uint64, g.Canaries)
		if !Unpack(out[j], canary[j*size:][:size], g.Scheme.Width, q) {
			return nil, Noncanonical(0, j)
		}
	}
	return out, nil
}
