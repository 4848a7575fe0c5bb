package params

import (
	"fmt"
	"math"
	"math/big"
	"math/bits"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Limits of a scheme, each with its reason.
const (
	MinBits    = 4
	MaxBits    = 30      // a value is a float32: 24 bits of precision
	MaxClients = 4096    // largest cohort for which the noise table was computed
	MaxWeight  = 255     // public integer weights of shared-key
	MaxValues  = 1 << 36 // values of one update
	LimbBits   = 16      // one limb of a control entry
	Limbs      = 3       // a control entry is an unsigned 48-bit integer
	maxLane    = 48      // bits of a lane: its sums stay exact in float64
	// FailureSumKey and FailureSharedKey are the t of |Σe| ≤ t·σ·√n:
	// t = √(2·ln2·(p+41)) bounds the chance that any of 2^40 coefficients
	// exceeds it by 2^-p, with p = 80 and p = 128.
	FailureSumKey    = 13.0
	FailureSharedKey = 15.31
)

// Choice is what a task chooses; everything else follows from it.
type Choice struct {
	Preset   string
	Mode     Mode
	Bits     int // of one value, sign included
	Clients  int // largest cohort, n_max
	Weight   int // largest public integer weight; 1 in sum-key
	Rounding Rounding
	Encoding Encoding // Lanes when zero
}

// Scheme is a checked Choice and what follows from it.
type Scheme struct {
	*Preset
	Mode       Mode
	Rounding   Rounding
	Encoding   Encoding
	Bits       int // β
	Clients    int // n_max
	Weight     int // largest public integer weight
	Headroom   int // g = ceil(log2(n_max·Weight))
	Lanes      int // L, values a coefficient
	LogDelta   int // log2 Δ
	Components int // polynomials of one ciphertext: 1 in sum-key, 2 in shared-key
}

// NewScheme derives the scheme of a choice or says why there is none.
func NewScheme(c Choice) (*Scheme, error) {
	p, err := ByName(c.Preset)
	if err != nil {
		return nil, err
	}
	if err := CheckSecurity(p.LogN, GaussianSecret, Sigma, p.Q()); err != nil {
		return nil, err
	}
	switch {
	case c.Mode != SumKey && c.Mode != SharedKey:
		return nil, fmt.Errorf("unknown %v: %w", c.Mode, errs.ErrParameters)
	case c.Rounding != Stochastic && c.Rounding != NearestEven:
		return nil, fmt.Errorf("unknown %v: %w", c.Rounding, errs.ErrParameters)
	case c.Encoding != 0 && !c.Encoding.Values():
		return nil, fmt.Errorf("%v is no encoding of updates: %w", c.Encoding, errs.ErrParameters)
	case c.Bits < MinBits || c.Bits > MaxBits:
		return nil, fmt.Errorf("%d bits a value; choose %d to %d: %w", c.Bits, MinBits, MaxBits, errs.ErrParameters)
	case c.Clients < 1 || c.Clients > MaxClients:
		return nil, fmt.Errorf("%d clients; choose 1 to %d: %w", c.Clients, MaxClients, errs.ErrParameters)
	case c.Mode == SumKey && c.Weight != 1:
		return nil, fmt.Errorf("sum-key applies weights on the client, the public weight is 1: %w", errs.ErrParameters)
	case c.Weight < 1 || c.Weight > MaxWeight:
		return nil, fmt.Errorf("public weights reach from 1 to %d: %w", MaxWeight, errs.ErrParameters)
	}
	s := &Scheme{
		Preset: p, Mode: c.Mode, Rounding: c.Rounding, Encoding: max(c.Encoding, Lanes),
		Bits: c.Bits, Clients: c.Clients, Weight: c.Weight, Components: 1,
		Headroom: bits.Len(uint(c.Clients*c.Weight - 1)),
	}
	if s.Mode == SharedKey {
		s.Components = 2
	}
	worst := uint64(c.Clients) * uint64(c.Weight) * uint64(c.Weight)
	for uint64(1)<<s.LogDelta < 2*s.NoiseBound(worst) {
		s.LogDelta++
	}
	if s.LaneWidth() > maxLane {
		return nil, fmt.Errorf("%w: %w", s.tooWide(), errs.ErrParameters)
	}
	q := p.Q()
	for s.fits(q, (s.Lanes+1)*s.LaneWidth()) && (s.Encoding == Lanes || s.Lanes == 0) {
		s.Lanes++
	}
	if s.Lanes == 0 || !s.fits(q, LimbBits+s.Headroom) {
		return nil, fmt.Errorf("%s has no room for %d bits from %d clients: choose a larger preset: %w", p.Name, s.Bits, s.Clients, errs.ErrParameters)
	}
	return s, nil
}

// tooWide says what exceeds a lane, and everything that would make it narrower.
func (s *Scheme) tooWide() error {
	what, instead := "", "choose fewer bits"
	if s.Encoding != Lanes {
		what, instead = fmt.Sprintf(" and %d of %v", s.ValueWidth()-s.Bits, s.Encoding), instead+", lanes"
	}
	if s.Weight > 1 {
		instead += ", smaller weights"
	}
	return fmt.Errorf("%d bits%s and %d of headroom exceed a lane of %d: %s or a smaller cohort", s.Bits, what, s.Headroom, maxLane, instead)
}

// fits reports Δ·2^width + Δ/2 < Q.
func (s *Scheme) fits(q *big.Int, width int) bool {
	v := new(big.Int).Lsh(big.NewInt(1), uint(width+s.LogDelta))
	half := new(big.Int).Lsh(big.NewInt(1), uint(s.LogDelta))
	v.Add(v, half.Rsh(half, 1))
	return v.Cmp(q) < 0
}

// FreshSigma is the standard deviation of the noise of one fresh ciphertext.
func (s *Scheme) FreshSigma() float64 {
	if s.Mode == SumKey {
		return Sigma
	}
	v := Sigma * Sigma
	return s.Spread * math.Sqrt(float64(s.N())*2*v*v+v)
}

// NoiseBound is the largest |Σ w·e| accepted of ciphertexts whose squared
// weights sum to squares: t·σ·√(Σw²), rounded up. The probability that a
// coefficient exceeds it is stated at FailureSumKey and FailureSharedKey.
func (s *Scheme) NoiseBound(squares uint64) uint64 {
	t := FailureSumKey
	if s.Mode == SharedKey {
		t = FailureSharedKey
	}
	return uint64(math.Ceil(t * s.FreshSigma() * math.Sqrt(float64(squares))))
}

// ValueWidth is the bits of what one client puts into a lane: β, or those of a
// coefficient of an embedded polynomial. Such coefficients are rounded so
// finely that N of their errors together are at most half a step of β bits.
func (s *Scheme) ValueWidth() int {
	switch s.Encoding {
	case Slots:
		return s.Bits + s.LogN
	case SlotsReal:
		return s.Bits + s.LogN + 1 // a slot is a sum of twice as many terms
	}
	return s.Bits
}

// LaneWidth is β+g, the bits of one lane, and more with slots.
func (s *Scheme) LaneWidth() int { return s.ValueWidth() + s.Headroom }

// SlotHalf is what a coefficient of magnitude 1 encodes to with slots.
func (s *Scheme) SlotHalf() int64 { return 1<<(s.ValueWidth()-1) - 1 }

// Half is M = 2^(β-1)-1: a value at its tensor's range encodes to ±M.
func (s *Scheme) Half() int64 { return 1<<(s.Bits-1) - 1 }

// ChunkValues is the number of values in a full data chunk: N·L, N/2 in slots,
// N in slots of the conjugate-invariant ring.
func (s *Scheme) ChunkValues() int {
	if s.Encoding == Slots {
		return s.N() / 2
	}
	return s.N() * s.Lanes
}

// Chunks is the number of data chunks of an update of the given length. The
// control chunk follows them and has this index.
func (s *Scheme) Chunks(values int64) int {
	return int((values + int64(s.ChunkValues()) - 1) / int64(s.ChunkValues()))
}

// Coefficients is the number of coefficients that data chunk index carries:
// N, fewer in the last.
func (s *Scheme) Coefficients(values int64, index int) int {
	rest := values - int64(index)*int64(s.ChunkValues())
	if s.Encoding != Lanes {
		return s.N()
	}
	if rest >= int64(s.ChunkValues()) {
		return s.N()
	}
	return int((rest + int64(s.Lanes) - 1) / int64(s.Lanes))
}
