package seal_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
)

func slotsScheme(preset string, mode params.Mode, e params.Encoding, bits, clients, weight int, r params.Rounding) *params.Scheme {
	s, err := params.NewScheme(params.Choice{Preset: preset, Mode: mode, Bits: bits, Clients: clients, Weight: weight, Rounding: r, Encoding: e})
	if err != nil {
		return nil
	}
	return s
}

// TestSlotsRounds: whole rounds in slots, in every preset, mode and rounding
// that carries them, stay within their bound, tags and metrics included.
func TestSlotsRounds(t *testing.T) {
	seen := map[params.Encoding]int{}
	for _, e := range []params.Encoding{params.Slots, params.SlotsReal} {
		for _, p := range params.Presets() {
			for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
				for _, rounding := range []params.Rounding{params.Stochastic, params.NearestEven} {
					weight := 1
					if mode == params.SharedKey {
						weight = 3
					}
					for _, bits := range []int{8, 16, 24} {
						s := slotsScheme(p.Name, mode, e, bits, 5, weight, rounding)
						if s == nil {
							continue // the planner says so, too
						}
						seen[e]++
						t.Run(fmt.Sprintf("%v/%s/%v/%v/%d", e, p.Name, mode, rounding, bits), func(t *testing.T) {
							rng := rand.New(rand.NewPCG(7, 7))
							c := &cohort{}
							c.round, c.secret = roundOf(t, s, [2]int64{int64(s.ChunkValues()) + 234, 77}, 300)
							for i := range 3 {
								x := gaussianUpdate(rng, c.round.Values())
								for k := range 20 { // all at the end of the range
									x[k] = float32(0.5 * (1 - 2*float64(k%2)))
								}
								c.updates, c.weights = append(c.updates, x), append(c.weights, uint32(i%3+1))
							}
							c.seal(t, 2)
							result := c.fold(t)
							got := c.open(t, result, 2)
							mean, bound := c.reference()
							for v := range mean {
								// Beside a lane's error, the mean is rounded to a step.
								at := 0
								if v >= int(c.round.Tensors[0].Count) {
									at = 1
								}
								limit := bound[v] + float64(c.round.Tensors[at].Range)/float64(s.Half())*0.5000001
								if d := math.Abs(float64(got[v]) - mean[v]); !(d <= limit) {
									t.Fatalf("value %d: off by %g, the bound is %g", v, d, limit)
								}
								step := float64(c.round.Tensors[at].Range) / float64(s.Half())
								if k := float64(got[v]) / step; math.Abs(k-math.Round(k)) > 1e-3*max(1, math.Abs(k)*1e-3) {
									t.Fatalf("value %d is %v steps: it was not rounded", v, k)
								}
							}
						})
					}
				}
			}
		}
	}
	if seen[params.Slots] < 20 || seen[params.SlotsReal] < 20 {
		t.Fatalf("only %v schemes with slots exist", seen)
	}
}

// A sum in slots that the aggregator changed is refused like any other.
func TestSlotsAreTagged(t *testing.T) {
	s := slotsScheme("n4096-q102", params.SharedKey, params.Slots, 16, 4, 1, params.Stochastic)
	c := &cohort{weights: []uint32{1, 1}}
	c.round, c.secret = roundOf(t, s, [2]int64{500, 11}, 9)
	for range c.weights {
		c.updates = append(c.updates, make([]float32, c.round.Values()))
	}
	c.seal(t, 1)
	result := c.sum(t, []uint32{1, 1})
	if err := c.attempt(t, c.round, result); err != nil {
		t.Fatal(err)
	}
	result[0] = plant(t, s, result[0], 3, 1)
	if err := c.attempt(t, c.round, result); !errors.Is(err, errs.ErrTag) {
		t.Fatalf("%v, want ErrTag", err)
	}
	result[0] = plant(t, s, result[0], 4, 1<<40)
	if err := c.attempt(t, c.round, result); !errors.Is(err, errs.ErrDecrypt) {
		t.Fatalf("%v, want ErrDecrypt", err)
	}
}

// NaN is refused, and what lies beyond the range is counted, as with lanes.
func TestSlotsClip(t *testing.T) {
	s := slotsScheme("n4096-q102", params.SharedKey, params.SlotsReal, 16, 4, 1, params.NearestEven)
	r, _ := roundOf(t, s, [2]int64{500, 11}, 9)
	x := make([]float32, r.Values())
	x[3], x[510] = 0.75, -3
	sealer, err := seal.NewSealer(r, secretsOf(1), x, 1, 1, seal.From("a"))
	if err != nil || fmt.Sprint(sealer.Clipped()) != "[1 1]" {
		t.Fatalf("%v: %v", err, sealer.Clipped())
	}
	x[7] = float32(math.NaN())
	if _, err := seal.NewSealer(r, secretsOf(1), x, 1, 1, seal.From("a")); !errors.Is(err, errs.ErrNotFinite) {
		t.Fatal(err)
	}
}
