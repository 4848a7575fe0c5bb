package task

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

// Ranges is how a task's rounds come by the range of each tensor.
type Ranges uint8

const (
	// RangesFixed are those of the task's layout.
	RangesFixed Ranges = 1
	// RangesAdaptive are agreed on once, before the first round, and follow
	// the last global update from then on.
	RangesAdaptive Ranges = 2
	// RangesNegotiated are agreed on before every round.
	RangesNegotiated Ranges = 3
)

var rangesNames = map[Ranges]string{RangesFixed: "fixed", RangesAdaptive: "adaptive", RangesNegotiated: "negotiated"}

func (r Ranges) String() string {
	if name, ok := rangesNames[r]; ok {
		return name
	}
	return fmt.Sprintf("ranges %d", uint8(r))
}

// ParseRanges is the inverse of String.
func ParseRanges(name string) (Ranges, error) {
	for r, n := range rangesNames {
		if n == name {
			return r, nil
		}
	}
	return 0, fmt.Errorf("ranges are fixed, adaptive or negotiated, not %q: %w", name, errs.ErrArgument)
}

// Kind is what a round sums.
type Kind uint8

const (
	// KindValues is a round of updates.
	KindValues Kind = 1
	// KindRanges is a round in which the cohort agrees on ranges.
	KindRanges Kind = 2
)

func (k Kind) String() string {
	switch k {
	case KindValues:
		return "values"
	case KindRanges:
		return "ranges"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// First is the kind of a task's first round.
func (r Ranges) First() Kind {
	if r == RangesFixed {
		return KindValues
	}
	return KindRanges
}

// Next is the kind of the round that follows a published one.
func (r Ranges) Next(published Kind) Kind {
	if r == RangesNegotiated && published == KindValues {
		return KindRanges
	}
	return KindValues
}

// Steps is how many updates were published, given the last published round.
func (k Kind) Steps(step uint32) uint32 {
	if k == KindValues {
		return step + 1
	}
	return step
}

// In a round of ranges every client sends, for each tensor, ExponentBuckets
// numbers of which one is 1. Its index b says that the tensor's largest
// magnitude, times the client's factor, is at most 2^(b+LeastExponent) and
// above half of that.
const (
	ExponentBuckets = 256
	LeastExponent   = -126
	exponentBits    = params.MinBits
	exponentsName   = "exponents"
)

// Shape is what a kind of round sums, and how.
type Shape struct {
	Scheme    *params.Scheme
	Layout    Layout
	Metrics   []string
	WeightCap uint32 // of a client's factor
	Canaries  int    // coefficients of zero in the control chunk
}

// Shape derives that of a kind of round.
func (t *Task) Shape(k Kind) (Shape, error) {
	s := Shape{Layout: t.Layout, Metrics: t.Metrics, WeightCap: t.WeightCap, Canaries: int(min(t.Canaries, 1<<16))}
	c := params.Choice{
		Preset: t.Preset, Mode: t.Mode, Bits: int(min(t.Bits, 1<<16)), Rounding: t.Rounding,
		Clients: int(min(t.MaxClients, 1<<16)), Weight: int(t.PublicWeightCap()), Encoding: t.Encoding,
	}
	switch {
	case k == KindRanges && t.Ranges != RangesFixed:
		s.Layout = Layout{{Name: exponentsName, Shape: []uint64{uint64(len(t.Layout)), ExponentBuckets}, Range: 1}}
		s.Metrics, s.WeightCap = nil, 1
		c.Bits, c.Weight, c.Rounding, c.Encoding = exponentBits, 1, params.NearestEven, params.Lanes
	case k != KindValues:
		return s, fmt.Errorf("task %s has no rounds of %v: %w", t.Name, k, errs.ErrSpec)
	case t.Mode == params.SharedKey:
		s.WeightCap = t.PublicWeightCap()
	}
	var err error
	s.Scheme, err = params.NewScheme(c)
	return s, err
}

// sealed is the number of integers that travel: the values and the further
// digits of those in precise tensors.
func (s Shape) sealed() int64 {
	n, further := s.Layout.Values(), int64(s.Scheme.Digits()-1)
	for _, t := range s.Layout {
		if t.Precise {
			n += further * t.Count()
		}
	}
	return n
}

// Geometry is the shape of a contribution to the round of a specification.
func (s Shape) Geometry(spec Digest) (frame.Geometry, error) {
	g := frame.Geometry{
		Scheme: s.Scheme, Values: s.sealed(), Key: [frame.KeySize]byte(spec[:frame.KeySize]),
		Controls: params.ControlsOf(len(s.Metrics), len(s.Layout), s.Canaries, s.Scheme.N()).Count(), Canaries: s.Canaries,
	}
	return g, g.Validate()
}
