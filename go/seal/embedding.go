package seal

import (
	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/encoding"
	"github.com/cryptflow/cryptflow/go/params"
)

// embedding is what one worker needs for slots.
type embedding struct {
	scheme       *params.Scheme
	slots        *ckks.Slots
	values       []float64
	coefficients []float64
}

// newEmbedding returns nil for lanes.
func newEmbedding(s *params.Scheme) *embedding {
	if s.Encoding == params.Lanes {
		return nil
	}
	e := &embedding{scheme: s, slots: ckks.NewSlots(s.Preset, s.Encoding), coefficients: make([]float64, s.N())}
	e.values = make([]float64, e.slots.Values())
	return e
}

// encode writes to words the plaintext of a chunk whose values begin at index
// first.
func (e *embedding) encode(words [][]uint64, l *encoding.Lanes, values []float32, first int64, factor float64, rho []byte) {
	l.Normalise(e.values, values, first, factor)
	e.slots.Embed(e.coefficients, e.values[:len(values)])
	encoding.PutCoefficients(words, e.coefficients, e.scheme, rho)
}

// decode writes the means of a chunk to out.
func (e *embedding) decode(out []float32, words [][]uint64, l *encoding.Lanes, first int64, weight uint32, divisor float64) error {
	if err := encoding.TakeCoefficients(e.coefficients, words, e.scheme, weight); err != nil {
		return err
	}
	e.slots.Extract(e.values[:len(out)], e.coefficients)
	l.Restore(out, e.values, first, divisor)
	return nil
}
