package frame

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// Geometry is the shape of one update: which frames it has and how long each
// is. Every contribution to a round has the same geometry. Data chunks come
// first, the control chunk last.
type Geometry struct {
	Scheme   *params.Scheme
	Values   int64         // values of the update
	Controls int           // entries of the control chunk
	Canaries int           // coefficients of zero after them
	Key      [KeySize]byte // key id of the round
}

// Validate reports why there is no update of this shape.
func (g Geometry) Validate() error {
	switch {
	case g.Scheme == nil:
		return fmt.Errorf("a geometry needs a scheme: %w", errs.ErrParameters)
	case g.Values < 1 || g.Values > params.MaxValues:
		return fmt.Errorf("%d values; an update has 1 to %d: %w", g.Values, int64(params.MaxValues), errs.ErrParameters)
	case g.Controls < 1 || g.Controls > g.Scheme.N()/params.Limbs:
		return fmt.Errorf("%d control entries; one chunk has room for 1 to %d: %w", g.Controls, g.Scheme.N()/params.Limbs, errs.ErrParameters)
	case g.Canaries < 0 || g.Canaries > params.MaxCanaries || g.control() > g.Scheme.N():
		return fmt.Errorf("%d canaries beside %d control entries; a chunk has %d coefficients, and at most %d canaries: %w",
			g.Canaries, g.Controls, g.Scheme.N(), params.MaxCanaries, errs.ErrParameters)
	case g.Canaries > 0 && g.Scheme.Mode != params.SumKey:
		return fmt.Errorf("canaries are of keys that clients have of their own, as in sum-key: %w", errs.ErrParameters)
	}
	return nil
}

// control is the number of coefficients of the control chunk.
func (g Geometry) control() int { return g.Controls*params.Limbs + g.Canaries }

// Frames is the number of frames of a contribution: data chunks and the
// control chunk.
func (g Geometry) Frames() int { return g.Scheme.Chunks(g.Values) + 1 }

// ControlIndex is the index of the control chunk, the last.
func (g Geometry) ControlIndex() int { return g.Scheme.Chunks(g.Values) }

// Header is the header of frame index of a contribution.
func (g Geometry) Header(index int) Header {
	h := Header{
		Preset: g.Scheme.ID, Encoding: g.Scheme.Encoding, Components: uint8(g.Scheme.Components),
		Key: g.Key, Chunk: uint32(index), Terms: 1, Weight: 1,
	}
	if index == g.ControlIndex() {
		h.Encoding = params.Control
		h.Coefficients = uint32(g.control())
	} else {
		h.Coefficients = uint32(g.Scheme.Coefficients(g.Values, index))
	}
	return h
}

// FrameSize is the length of frame index.
func (g Geometry) FrameSize(index int) int {
	n := g.control()
	if index != g.ControlIndex() {
		n = g.Scheme.Coefficients(g.Values, index)
	}
	return Size(g.Scheme.Preset, g.Scheme.Components, n)
}

// Offset is where frame index begins in a file that holds a contribution's
// frames in order; Offset(Frames()) is the length of that file.
func (g Geometry) Offset(index int) int64 {
	chunks := g.ControlIndex()
	full := int64(Size(g.Scheme.Preset, g.Scheme.Components, g.Scheme.N()))
	if index < chunks {
		return int64(index) * full
	}
	at := int64(chunks-1)*full + int64(g.FrameSize(chunks-1))
	if index > chunks {
		at += int64(g.FrameSize(chunks))
	}
	return at
}

// Size is the length of all frames of a contribution.
func (g Geometry) Size() int64 { return g.Offset(g.Frames()) }

// Span is the part [from, to) of the update that data chunk index carries.
func (g Geometry) Span(index int) (from, to int64) {
	from = int64(index) * int64(g.Scheme.ChunkValues())
	return from, min(from+int64(g.Scheme.ChunkValues()), g.Values)
}
