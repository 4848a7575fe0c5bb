package params

import (
	"fmt"
	"math/big"
	"testing"
)

// TestEveryCohortHasRoom goes through every number of clients up to the
// planner's limit: the largest sum and its noise fit the lanes and the modulus,
// parameters change monotonically with the cohort, and a scheme that exists
// for n clients exists for every smaller cohort.
func TestEveryCohortHasRoom(t *testing.T) {
	for _, p := range Presets() {
		q := p.Q()
		for _, mode := range []Mode{SumKey, SharedKey} {
			for _, bits := range []int{MinBits, 8, 16, 24, MaxBits} {
				t.Run(fmt.Sprintf("%s/%v/bits=%d", p.Name, mode, bits), func(t *testing.T) {
					var before *Scheme
					ended := 0
					for n := 1; n <= MaxClients; n++ {
						s, err := NewScheme(Choice{Preset: p.Name, Mode: mode, Bits: bits, Clients: n, Weight: 1, Rounding: Stochastic})
						if err != nil {
							ended = n
							continue
						}
						if ended > 0 {
							t.Fatalf("%d clients fit where %d do not", n, ended)
						}
						if largest := 2 * s.Half() * int64(n); largest>>s.LaneWidth() != 0 {
							t.Fatalf("n = %d: a sum of %d leaves its lane of %d bits", n, largest, s.LaneWidth())
						}
						if bound := s.NoiseBound(uint64(n)); 2*bound > 1<<s.LogDelta {
							t.Fatalf("n = %d: noise of %d, Δ = 2^%d", n, bound, s.LogDelta)
						}
						if new(big.Int).Lsh(big.NewInt(1), uint(s.Lanes*s.LaneWidth()+s.LogDelta)).Cmp(q) >= 0 {
							t.Fatalf("n = %d: %d lanes exceed the modulus", n, s.Lanes)
						}
						if before != nil && (s.Lanes > before.Lanes || s.LogDelta < before.LogDelta || s.Headroom < before.Headroom) {
							t.Fatalf("n = %d: %d lanes, Δ = 2^%d after %d and 2^%d", n, s.Lanes, s.LogDelta, before.Lanes, before.LogDelta)
						}
						before = s
					}
				})
			}
		}
	}
}
