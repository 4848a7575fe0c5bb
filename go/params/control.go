package params

// First entries of the control chunk. Two for every metric follow, then the
// clipped values of every tensor if the chunk has room for them.
const (
	// ControlWeight is the client's weight: num_examples in sum-key, 1 in
	// shared-key, where the public weight multiplies it.
	ControlWeight = iota
	// ControlClipped is the number of the client's values that were clipped.
	ControlClipped
	// ControlTagLow is the tag modulo 2^48, ControlTagHigh the rest of it.
	ControlTagLow
	ControlTagHigh
	// ControlMetrics is where metrics begin.
	ControlMetrics
)

// A task with canaries has between 1 and MaxCanaries coefficients of zero after
// the entries of its control chunk; DefaultCanaries unless an admin says
// otherwise. One of them passes under a wrong key with probability 81/Q.
const (
	DefaultCanaries = 8
	MaxCanaries     = 64
)

// Controls is the order of a control chunk's entries.
type Controls struct {
	Metrics int
	// Tensors is the number of entries for clipped values by tensor: all
	// tensors, or none where the chunk has no room for all.
	Tensors int
}

// ControlsOf is the order for metrics and tensors, beside canaries, in a ring
// of degree n.
func ControlsOf(metrics, tensors, canaries, n int) Controls {
	c := Controls{Metrics: metrics, Tensors: tensors}
	if c.Count() > (n-canaries)/Limbs {
		c.Tensors = 0
	}
	return c
}

// Count is the number of entries.
func (c Controls) Count() int { return ControlMetrics + 2*c.Metrics + c.Tensors }

// Metric is the first of metric k's two entries: its value, then the weight of
// who gave it.
func (c Controls) Metric(k int) int { return ControlMetrics + 2*k }

// Clipped is the entry of tensor k.
func (c Controls) Clipped(k int) int { return ControlMetrics + 2*c.Metrics + k }
