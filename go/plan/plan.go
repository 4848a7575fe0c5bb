// Package plan chooses parameters: which preset carries so many values of so
// many bits from so many clients in the fewest bytes, what that guarantees,
// and how long it takes on this machine.
package plan

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/privacy"
	"github.com/cryptflow/cryptflow/go/seal"
)

// Request is what the user knows.
type Request struct {
	Values    int64
	Clients   int
	Bits      int
	Mode      params.Mode
	Rounding  params.Rounding
	Encoding  params.Encoding // lanes when zero
	WeightCap int             // shared-key: largest public weight, at most 255 count
	Threads   int
	Calibrate bool // measure this machine
	// Privacy plans for a private task: what an admin chooses of it, and the
	// smallest cohort.
	Privacy   *privacy.Promise
	MinCohort int
}

// Option is one way to do it.
type Option struct {
	Preset    string  `json:"preset"`
	Mode      string  `json:"mode"`
	Encoding  string  `json:"encoding"`
	Values    int64   `json:"values"`
	Clients   int     `json:"clients"`
	Bits      int     `json:"bits"`
	Lanes     int     `json:"lanes"`
	Headroom  int     `json:"headroom_bits"`
	DeltaBits int     `json:"delta_bits"`
	Degree    int     `json:"ring_degree"`
	ModulusQ  int     `json:"log2_modulus"`
	Frames    int     `json:"frames"`
	BytesUp   int64   `json:"bytes_up"`   // frames of one contribution
	BytesDown int64   `json:"bytes_down"` // frames of the result and the released secret
	UpValue   float64 `json:"wire_bytes_per_value_up"`
	DownValue float64 `json:"wire_bytes_per_value_down"`
	// Step is the largest error of one value as a share of its range.
	Step            float64 `json:"relative_step"`
	SecurityBits    int     `json:"security_bits"`
	SecuritySource  string  `json:"security_source"`
	FailureLog2     float64 `json:"failure_probability_log2"` // of 2^40 coefficients
	EncryptSeconds  float64 `json:"encrypt_seconds,omitempty"`
	DecryptSeconds  float64 `json:"decrypt_seconds,omitempty"`
	CalibratedUsing int     `json:"calibrated_threads,omitempty"`
	Privacy         *Noise  `json:"privacy,omitempty"`
}

// Noise is what differential privacy costs. Shares are of the clip norm.
type Noise struct {
	Steps     uint32  `json:"clip_norm_steps"`
	Range     float64 `json:"range_over_clip_norm"`
	Mean      float64 `json:"noise_of_mean_over_clip_norm"` // standard deviation, smallest cohort
	Inflation float64 `json:"inflation"`                    // noise because of rounding, 1 without
	Failure   float64 `json:"saturation_probability_log2"`  // of any value, client and round
}

const source = "ePrint 2024/463, table for Gaussian secrets, classical"

// Options returns every preset that can do it, the fewest bytes up first. When
// none can, the error says what would have to change.
func Options(ctx context.Context, q Request) ([]Option, error) {
	if q.Values < 1 || q.Values > params.MaxValues {
		return nil, fmt.Errorf("%d values; an update has 1 to %d: %w", q.Values, int64(params.MaxValues), errs.ErrParameters)
	}
	if q.Clients < 2 {
		return nil, fmt.Errorf("%d clients; a cohort has at least 2: %w", q.Clients, errs.ErrParameters)
	}
	weight := 1
	if q.Mode == params.SharedKey {
		if q.WeightCap < 1 {
			return nil, fmt.Errorf("a weight cap of %d; choose 1 or more: %w", q.WeightCap, errs.ErrParameters)
		}
		weight = min(q.WeightCap, params.MaxWeight)
	}
	promise, err := q.promise()
	if err != nil {
		return nil, err
	}
	if promise != nil {
		q.Rounding = params.NearestEven
	}
	var out []Option
	var refused error
	for _, p := range params.Presets() {
		s, err := params.NewScheme(params.Choice{Preset: p.Name, Mode: q.Mode, Bits: q.Bits, Clients: q.Clients, Weight: weight, Rounding: q.Rounding, Encoding: q.Encoding})
		if err != nil {
			refused = err
			continue
		}
		o := describe(s, q)
		if promise != nil {
			o.Privacy = &Noise{
				Steps: promise.Steps, Range: float64(s.Half()) / float64(promise.Steps), Inflation: promise.Inflation(),
				Mean: promise.Noise(uint32(q.MinCohort)) / promise.Clip / float64(q.MinCohort), Failure: privacy.FailureLog2,
			}
			o.Step = 1 / float64(s.Half()) // rounded stochastically, before noise
		}
		if q.Calibrate {
			if err := o.calibrate(ctx, s, q.Threads); err != nil {
				return nil, err
			}
		}
		out = append(out, o)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no preset does this: %w", refused)
	}
	slices.SortStableFunc(out, func(a, b Option) int { return cmp.Compare(a.BytesUp, b.BytesUp) })
	return out, nil
}

// promise completes what is asked of privacy, nil without.
func (q Request) promise() (*privacy.Promise, error) {
	if q.Privacy == nil {
		return nil, nil
	}
	if q.Mode != params.SumKey || max(q.Encoding, params.Lanes) != params.Lanes {
		return nil, fmt.Errorf("differential privacy needs sum-key and lanes: %w", errs.ErrParameters)
	}
	if q.MinCohort < 2 || q.MinCohort > q.Clients {
		return nil, fmt.Errorf("a smallest cohort of %d of %d clients: %w", q.MinCohort, q.Clients, errs.ErrParameters)
	}
	p, err := privacy.Derive(*q.Privacy, uint32(min(max(q.Bits, 0), 64)), q.Values, uint32(q.MinCohort))
	return &p, err
}

func describe(s *params.Scheme, q Request) Option {
	g := frame.Geometry{Scheme: s, Values: q.Values}
	if s.Mode == params.SumKey {
		g.Canaries = params.DefaultCanaries
	}
	g.Controls = params.ControlsOf(1, 1, g.Canaries, s.N()).Count()
	o := Option{
		Preset: s.Name, Mode: s.Mode.String(), Encoding: s.Encoding.String(), Values: q.Values, Clients: q.Clients, Bits: q.Bits,
		Lanes: s.Lanes, Headroom: s.Headroom, DeltaBits: s.LogDelta, Degree: s.N(), ModulusQ: s.Q().BitLen(),
		Frames: g.Frames(), BytesUp: g.Size(), BytesDown: g.Size() + 4*int64(s.N()),
		Step: 1 / float64(s.Half()), SecurityBits: params.SecurityBits, SecuritySource: source, FailureLog2: failure(s),
	}
	if s.Rounding == params.NearestEven {
		o.Step /= 2
	}
	if s.Encoding != params.Lanes {
		o.Step += 0.5 / float64(s.Half()) // the mean is rounded to a step, too
	}
	o.UpValue, o.DownValue = float64(o.BytesUp)/float64(q.Values), float64(o.BytesDown)/float64(q.Values)
	return o
}

// failure is log2 of the probability that any of 2^40 coefficients of a sum is
// refused, from t = √(2·ln2·(p+41)).
func failure(s *params.Scheme) float64 {
	t := params.FailureSumKey
	if s.Mode == params.SharedKey {
		t = params.FailureSharedKey
	}
	return 41 - t*t/(2*math.Ln2)
}

// chunks is how much a calibration encrypts and decrypts.
const chunks = 24

// calibrate measures encryption to frames, and decryption, of some chunks and
// scales to the whole update.
func (o *Option) calibrate(ctx context.Context, s *params.Scheme, threads int) error {
	n := min(int64(chunks*s.ChunkValues()), o.Values)
	r := seal.Round{Scheme: s, WeightCap: 1, Tensors: []seal.Tensor{{Name: "w", Count: n, Range: 1}}}
	secrets, err := seal.NewSecrets()
	if err != nil {
		return err
	}
	rel := seal.Release{Terms: 1, WeightSum: 1, Squares: 1}
	if s.Mode == params.SharedKey {
		rel.Secret, r.PublicKey, err = ckks.GenerateKeyPair(s.Preset, r.Nonce, secrets.Key)
	} else {
		rel.Secret, err = ckks.SumSecrets(s.Preset, r.SpecDigest, []ckks.Seed{secrets.Key})
	}
	if err != nil {
		return err
	}
	sealer, err := seal.NewSealer(r, secrets, make([]float32, n), 1, threads)
	if err != nil {
		return err
	}
	frames := make([][]byte, sealer.Frames())
	keep := func(i int, b []byte) error { frames[i] = append(frames[i][:0], b...); return nil }
	if err := sealer.Seal(ctx, 0, sealer.Frames(), keep); err != nil { // warms up
		return err
	}
	began := time.Now()
	if err := sealer.Seal(ctx, 0, sealer.Frames(), keep); err != nil {
		return err
	}
	scale := float64(o.Values) / float64(n)
	o.EncryptSeconds = time.Since(began).Seconds() * scale
	opener, err := seal.NewOpener(r, rel, threads)
	if err != nil {
		return err
	}
	last := len(frames) - 1
	if _, err := opener.OpenControl(frames[last]); err != nil {
		return err
	}
	out := make([]float32, n)
	began = time.Now()
	if err := opener.OpenRange(ctx, 0, frames[:last], out); err != nil {
		return err
	}
	o.DecryptSeconds, o.CalibratedUsing = time.Since(began).Seconds()*scale, threads
	return nil
}
