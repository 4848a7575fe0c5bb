// Package seal turns one update into its frames and the frames of a sum into
// the mean, over all cores: encoding, encryption and framing in one pass. It
// is where a client's two secrets are used and where it is made sure that they
// are used for one update only.
//
// # Security
//
// A contribution is a pure function of the round, the two seeds and the
// update: sealing it again gives the same bytes. Sealing another update with
// the same seeds would reveal the difference, so a [Sealer] remembers the hash
// of every frame and refuses to emit a frame that changed. A process that
// restarts and no longer has the seeds draws new ones and deposits anew; one
// that kept them must keep the update too.
//
// # Ownership
//
// A [Sealer] reads the values it was given until it is dropped and never
// writes to them: the caller leaves them unchanged. Frames passed to emit are
// valid until emit returns.
package seal

import (
	"fmt"
	"math"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/encoding"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/tag"
)

// Tensor is one named array of the update, in layout order. Range is the
// largest magnitude that travels unclipped.
// Precise tensors travel in several digits.
type Tensor struct {
	Name    string
	Count   int64
	Range   float32
	Precise bool
}

// Round is what every contribution to a round and its result have in common.
// All of it follows from the signed specification.
type Round struct {
	Scheme     *params.Scheme
	SpecDigest [32]byte
	Tensors    []Tensor
	Metrics    []string // named scalars that contributions may carry
	WeightCap  uint32   // largest num_examples of one client, w_cap
	Tag        *tag.Key // of the round; contributions carry no tag without it
	Canaries   int      // coefficients of zero in the control chunk

	// Shared-key only: the round's public key and the nonce from which its
	// public half is expanded.
	Nonce     [32]byte
	PublicKey []byte
}

// Secrets are the two seeds of one contribution. Key goes to the key service,
// Noise never leaves the client. In shared-key Key is not used.
type Secrets struct {
	Key, Noise ckks.Seed
}

// NewSecrets draws both seeds.
func NewSecrets() (Secrets, error) {
	key, err := ckks.NewSeed()
	if err != nil {
		return Secrets{}, err
	}
	noise, err := ckks.NewSeed()
	return Secrets{Key: key, Noise: noise}, err
}

// Release is what decryption needs beside the frames: the secret of the sum
// and, for the cohort it opens, the number of clients, the sum of their public
// weights and of the squares of those. In sum-key all three are equal. Members
// are the clients of the set, which a round with tags needs.
type Release struct {
	Secret    []int32
	Terms     uint32
	WeightSum uint32
	Squares   uint64
	Members   []Member
}

// Member is one client of the set and its public weight.
type Member struct {
	Client string
	Weight uint32
}

// Values is the number of values of an update.
func (r Round) Values() int64 {
	n := int64(0)
	for _, t := range r.Tensors {
		n += t.Count
	}
	return n
}

// sealed is the number of integers that travel: the values and the further
// digits of those in precise tensors.
func (r Round) sealed() int64 {
	n, further := r.Values(), int64(r.Scheme.Digits()-1)
	for _, t := range r.Tensors {
		if t.Precise {
			n += further * t.Count
		}
	}
	return n
}

// Controls is the order of the control chunk.
func (r Round) Controls() params.Controls {
	return params.ControlsOf(len(r.Metrics), len(r.Tensors), r.Canaries, r.Scheme.N())
}

// hasher computes tags; nil in a round without them.
func (r Round) hasher() *tag.Hasher {
	if r.Tag == nil {
		return nil
	}
	return tag.New(*r.Tag, r.Scheme.N(), len(r.Scheme.Primes), r.Scheme.Lanes, r.Scheme.LaneWidth())
}

// Geometry is the shape of a contribution's frames.
func (r Round) Geometry() frame.Geometry {
	return frame.Geometry{
		Scheme: r.Scheme, Values: r.sealed(), Controls: r.Controls().Count(), Canaries: r.Canaries,
		Key: [frame.KeySize]byte(r.SpecDigest[:frame.KeySize]),
	}
}

// lanes checks the round and returns its encoding and geometry.
func (r Round) lanes() (*encoding.Lanes, frame.Geometry, error) {
	var g frame.Geometry
	if r.Scheme == nil {
		return nil, g, fmt.Errorf("a round needs a scheme: %w", errs.ErrParameters)
	}
	if r.WeightCap < 1 {
		return nil, g, fmt.Errorf("a weight cap of 0: %w", errs.ErrParameters)
	}
	tensors := make([]encoding.Tensor, len(r.Tensors))
	for i, t := range r.Tensors {
		tensors[i] = encoding.Tensor{Count: t.Count, Range: t.Range, Precise: t.Precise}
	}
	l, err := encoding.NewLanes(r.Scheme, tensors)
	if err != nil {
		return nil, g, err
	}
	g = r.Geometry()
	return l, g, g.Validate()
}

// Bound is the largest difference between the mean that a result opens to and
// the mean of the clients' values in real numbers, for a tensor of the given
// range, before rounding to float32 and for values within the range: one
// quantisation step (half with nearest-even) for every unit of divisor and
// term. Sum-key scales with n·w_cap/Σw, the precision that weights cost. In
// shared-key it is about the mean with the public weights; where those stand for
// larger numbers of examples, the client package adds what that costs.
func (r Round) Bound(tensorRange float32, rel Release, weights uint64) float64 {
	step := float64(tensorRange) / float64(r.Scheme.Half())
	if r.Scheme.Rounding == params.NearestEven {
		step /= 2
	}
	if r.Scheme.Mode == params.SumKey {
		step *= float64(rel.Terms) * float64(r.WeightCap) / float64(weights)
	}
	if r.Scheme.Encoding != params.Lanes {
		// The mean itself is rounded to a step, too.
		step += float64(tensorRange) / float64(r.Scheme.Half()) / 2
	}
	return step
}

// BoundOf is Bound of a tensor, precise or not. The digits of a precise tensor
// are rounded to nearest, the last of them counts; beyond about 50 bits float64
// arithmetic does.
func (r Round) BoundOf(t Tensor, rel Release, weights uint64) float64 {
	if !t.Precise {
		return r.Bound(t.Range, rel, weights)
	}
	step := float64(t.Range) / float64(r.Scheme.Half()) / 2
	for range r.Scheme.Digits() - 1 {
		step /= r.Scheme.DigitBase()
	}
	step += float64(t.Range) * 0x1p-50
	if r.Scheme.Mode == params.SumKey {
		step *= float64(rel.Terms) * float64(r.WeightCap) / float64(weights)
	}
	return step
}

// check says whether the release can belong to the round.
func (rel Release) check(s *params.Scheme) error {
	n, w := uint64(rel.Terms), uint64(rel.WeightSum)
	ok := n >= 1 && n <= uint64(s.Clients) && w >= n && w <= n*uint64(s.Weight) &&
		rel.Squares >= w && rel.Squares <= w*uint64(s.Weight) && rel.Squares*n >= w*w
	if !ok {
		return fmt.Errorf("a release of %d clients with weights %d, squared %d, does not fit the scheme: %w", n, w, rel.Squares, errs.ErrWeightSum)
	}
	return nil
}

// members says whether the set is that of the release; a round without tags
// may leave it out.
func (rel Release) members(r Round) error {
	if r.Tag == nil && rel.Members == nil {
		return nil
	}
	weights, squares := uint64(0), uint64(0)
	for _, m := range rel.Members {
		weights += uint64(m.Weight)
		squares += uint64(m.Weight) * uint64(m.Weight)
	}
	if len(rel.Members) != int(rel.Terms) || weights != uint64(rel.WeightSum) || squares != rel.Squares {
		return fmt.Errorf("a release of %d clients that lists %d: %w", rel.Terms, len(rel.Members), errs.ErrWeightSum)
	}
	return nil
}

// factor is what sum-key multiplies values with, and 1 in shared-key.
func (r Round) factor(weight uint32) float64 {
	if r.Scheme.Mode == params.SharedKey {
		return 1
	}
	return float64(weight) / float64(r.WeightCap)
}

// divisor is what sums are divided by, weights being the sum that the control
// chunk says.
func (r Round) divisor(weights uint64) float64 {
	if r.Scheme.Mode == params.SharedKey {
		return float64(weights)
	}
	return float64(weights) / float64(r.WeightCap)
}

func threadsOr(threads, tasks int) int {
	return max(1, min(threads, tasks, math.MaxInt16))
}
