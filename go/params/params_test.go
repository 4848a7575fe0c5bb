package params

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
)

// TestPresetsAreWhatTheySay: primes of the stated width, 1 modulo 2N, with
// primitive 2N-th roots of unity, and inside the gate.
func TestPresetsAreWhatTheySay(t *testing.T) {
	bits := map[string]int{"n2048-q52": 52, "n4096-q102": 102, "n8192-q204": 204}
	for _, p := range Presets() {
		if got := p.Q().BitLen(); got != bits[p.Name] {
			t.Errorf("%s: log2 Q is %d, want %d", p.Name, got, bits[p.Name])
		}
		seen := map[uint64]bool{}
		for j, q := range p.Primes {
			v := new(big.Int).SetUint64(q)
			if !v.ProbablyPrime(32) || v.BitLen() != p.Width || q%uint64(2*p.N()) != 1 || seen[q] {
				t.Errorf("%s: %d is not a new prime of %d bits, 1 modulo 2N", p.Name, q, p.Width)
			}
			seen[q] = true
			half := new(big.Int).Exp(new(big.Int).SetUint64(p.Psi[j]), big.NewInt(int64(p.N())), v)
			if half.Cmp(new(big.Int).Sub(v, big.NewInt(1))) != 0 {
				t.Errorf("%s: ψ^N is not -1 modulo %d", p.Name, q)
			}
		}
		if err := CheckSecurity(p.LogN, GaussianSecret, Sigma, p.Q()); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if got, err := ByName(p.Name); err != nil || got != p {
			t.Errorf("ByName(%q): %v", p.Name, err)
		}
		if got, err := ByID(p.ID); err != nil || got != p || p.ID == 0 {
			t.Errorf("ByID(%d): %v", p.ID, err)
		}
	}
	if _, err := ByName("n1024"); !errors.Is(err, errs.ErrParameters) {
		t.Error(err)
	}
	if _, err := ByID(0); !errors.Is(err, errs.ErrParameters) {
		t.Error(err)
	}
}

// TestGateAtAndAboveEveryLimit: the table of ePrint 2024/463, for the modulus
// with exactly the bits of the limit and with one more.
func TestGateAtAndAboveEveryLimit(t *testing.T) {
	limits := []struct{ logN, ternary, gaussian int }{
		{10, 26, 28}, {11, 53, 55}, {12, 106, 108}, {13, 214, 216}, {14, 430, 432},
	}
	for _, l := range limits {
		if got := MaxLogQ(l.logN, TernarySecret); got != l.ternary {
			t.Errorf("N = 2^%d, ternary: %d, want %d", l.logN, got, l.ternary)
		}
		smallest := new(big.Int).Lsh(big.NewInt(1), uint(l.gaussian-1))
		largest := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(l.gaussian)), big.NewInt(1))
		above := new(big.Int).Lsh(big.NewInt(1), uint(l.gaussian))
		for _, c := range []struct {
			name   string
			secret Secret
			sigma  float64
			q      *big.Int
			ok     bool
		}{
			{"limit, smallest", GaussianSecret, Sigma, smallest, true},
			{"limit, largest", GaussianSecret, Sigma, largest, true},
			{"limit, narrowest", GaussianSecret, MinSigma, largest, true},
			{"one bit above", GaussianSecret, Sigma, above, false},
			{"ternary secret", TernarySecret, Sigma, big.NewInt(3), false},
			{"no secret", 0, Sigma, big.NewInt(3), false},
			{"narrow noise", GaussianSecret, math.Nextafter(MinSigma, 0), smallest, false},
			{"noise NaN", GaussianSecret, math.NaN(), smallest, false},
			{"q = 0", GaussianSecret, Sigma, new(big.Int), false},
			{"q < 0", GaussianSecret, Sigma, big.NewInt(-3), false},
		} {
			err := CheckSecurity(l.logN, c.secret, c.sigma, c.q)
			if c.ok && err != nil || !c.ok && !errors.Is(err, errs.ErrInsecure) {
				t.Errorf("N = 2^%d, %s: %v", l.logN, c.name, err)
			}
		}
	}
	for _, logN := range []int{-1, 0, 9, 15, 16} {
		if err := CheckSecurity(logN, GaussianSecret, Sigma, big.NewInt(3)); !errors.Is(err, errs.ErrInsecure) {
			t.Errorf("N = 2^%d: %v", logN, err)
		}
	}
	if MaxLogQ(12, 0) != 0 {
		t.Error("a limit for no secret")
	}
}

// TestPublishedGeometry is the table of the documentation: lanes and log2 Δ of
// sum-key by cohort and bits.
func TestPublishedGeometry(t *testing.T) {
	bits := []int{8, 12, 16, 20, 24}
	for _, row := range []struct {
		clients, logDelta int
		n4096, n8192      []int
	}{
		{4, 8, []int{9, 6, 5, 4, 3}, []int{19, 13, 10, 8, 7}},
		{8, 9, []int{8, 6, 4, 4, 3}, []int{17, 12, 10, 8, 7}},
		{16, 9, []int{7, 5, 4, 3, 3}, []int{16, 12, 9, 8, 6}},
		{64, 10, []int{6, 5, 4, 3, 3}, []int{13, 10, 8, 7, 6}},
		{256, 11, []int{5, 4, 3, 3, 2}, []int{12, 9, 8, 6, 6}},
		{1024, 12, []int{4, 4, 3, 2, 2}, []int{10, 8, 7, 6, 5}},
		{4096, 13, []int{4, 3, 3, 2, 2}, []int{9, 7, 6, 5, 5}},
	} {
		for name, lanes := range map[string][]int{"n4096-q102": row.n4096, "n8192-q204": row.n8192} {
			for k, b := range bits {
				s, err := NewScheme(Choice{Preset: name, Mode: SumKey, Bits: b, Clients: row.clients, Weight: 1, Rounding: Stochastic})
				if err != nil {
					t.Errorf("%s, n = %d, β = %d: %v", name, row.clients, b, err)
				} else if s.Lanes != lanes[k] || s.LogDelta != row.logDelta {
					t.Errorf("%s, n = %d, β = %d: %d lanes, Δ = 2^%d; documented are %d, 2^%d", name, row.clients, b, s.Lanes, s.LogDelta, lanes[k], row.logDelta)
				}
			}
		}
	}
}

// TestEverySchemeHasRoom: for all choices, the largest sum and noise stay
// below Q, one more lane would not, and the noise bound is at most Δ/2.
func TestEverySchemeHasRoom(t *testing.T) {
	schemes := 0
	for _, p := range Presets() {
		q := p.Q()
		for _, mode := range []Mode{SumKey, SharedKey} {
			for _, clients := range []int{1, 2, 3, 5, 8, 64, 100, 4095, 4096} {
				for b := MinBits; b <= MaxBits; b++ {
					weights := []int{1}
					if mode == SharedKey {
						weights = []int{1, 2, 10, MaxWeight}
					}
					for _, w := range weights {
						s, err := NewScheme(Choice{Preset: p.Name, Mode: mode, Bits: b, Clients: clients, Weight: w, Rounding: NearestEven})
						if err != nil {
							if !errors.Is(err, errs.ErrParameters) {
								t.Fatal(err)
							}
							continue
						}
						schemes++
						name := fmt.Sprintf("%s, %v, n = %d, β = %d, w = %d", p.Name, mode, clients, b, w)
						total := int64(clients) * int64(w)
						if lane := new(big.Int).Mul(big.NewInt(2*s.Half()), big.NewInt(total)); lane.BitLen() > s.LaneWidth() {
							t.Fatalf("%s: the largest sum overflows its lane", name)
						}
						delta := new(big.Int).Lsh(big.NewInt(1), uint(s.LogDelta))
						top := func(lanes int) *big.Int { // largest message plus noise, rounded
							v := new(big.Int).Lsh(delta, uint(lanes*s.LaneWidth()))
							return v.Add(v, new(big.Int).Rsh(delta, 1))
						}
						if top(s.Lanes).Cmp(q) >= 0 || top(s.Lanes+1).Cmp(q) < 0 {
							t.Fatalf("%s: %d lanes are not the most that fit", name, s.Lanes)
						}
						if bound := s.NoiseBound(uint64(total) * uint64(w)); 2*bound > delta.Uint64() || 4*bound <= delta.Uint64() {
							t.Fatalf("%s: Δ = 2^%d is not the smallest for noise of %d", name, s.LogDelta, bound)
						}
					}
				}
			}
		}
	}
	if schemes < 1000 {
		t.Errorf("only %d schemes", schemes)
	}
}

// TestFailureProbabilities: 2·exp(−t²/2) ≤ 2^-(p+40).
func TestFailureProbabilities(t *testing.T) {
	for p, bound := range map[int]float64{80: FailureSumKey, 128: FailureSharedKey} {
		if got := math.Log2(2) - bound*bound/2/math.Ln2; got > -float64(p+40) {
			t.Errorf("t = %v fails with probability 2^%.1f for a coefficient, claimed is 2^-%d", bound, got, p+40)
		}
	}
}

func TestChoicesAreChecked(t *testing.T) {
	good := Choice{Preset: "n4096-q102", Mode: SharedKey, Bits: 16, Clients: 8, Weight: 3, Rounding: Stochastic}
	if _, err := NewScheme(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Choice){
		"preset":              func(c *Choice) { c.Preset = "" },
		"mode 0":              func(c *Choice) { c.Mode = 0 },
		"mode 3":              func(c *Choice) { c.Mode = 3 },
		"rounding 0":          func(c *Choice) { c.Rounding = 0 },
		"rounding 3":          func(c *Choice) { c.Rounding = 3 },
		"3 bits":              func(c *Choice) { c.Bits = 3 },
		"31 bits":             func(c *Choice) { c.Bits = 31 },
		"0 clients":           func(c *Choice) { c.Clients = 0 },
		"4097 clients":        func(c *Choice) { c.Clients = 4097 },
		"weight 0":            func(c *Choice) { c.Weight = 0 },
		"weight 256":          func(c *Choice) { c.Weight = 256 },
		"weights in sum-key":  func(c *Choice) { c.Mode = SumKey },
		"lane too wide":       func(c *Choice) { c.Bits, c.Clients, c.Weight = 30, 4096, 255 },
		"no room in the ring": func(c *Choice) { c.Preset, c.Bits, c.Clients = "n2048-q52", 30, 64 },
	} {
		c := good
		change(&c)
		if _, err := NewScheme(c); !errors.Is(err, errs.ErrParameters) {
			t.Errorf("%s: %v, want CF_PARAMETERS", name, err)
		}
	}
}

func TestChunksCoverTheValues(t *testing.T) {
	s, err := NewScheme(Choice{Preset: "n4096-q102", Mode: SumKey, Bits: 16, Clients: 64, Weight: 1, Rounding: Stochastic})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		values       int64
		chunks, last int
	}{
		{1, 1, 1}, {4, 1, 1}, {5, 1, 2}, {16384, 1, 4096}, {16385, 2, 1}, {32767, 2, 4096}, {MaxValues, 1 << 22, 4096},
	} {
		if got := s.Chunks(c.values); got != c.chunks {
			t.Errorf("%d values: %d chunks, want %d", c.values, got, c.chunks)
		}
		if got := s.Coefficients(c.values, c.chunks-1); got != c.last {
			t.Errorf("%d values: %d coefficients in the last chunk, want %d", c.values, got, c.last)
		}
	}
}

func TestNamesRoundTrip(t *testing.T) {
	for _, m := range []Mode{SumKey, SharedKey} {
		if got, err := ParseMode(m.String()); err != nil || got != m {
			t.Errorf("%v: %v, %v", m, got, err)
		}
	}
	for _, r := range []Rounding{Stochastic, NearestEven} {
		if got, err := ParseRounding(r.String()); err != nil || got != r {
			t.Errorf("%v: %v, %v", r, got, err)
		}
	}
	if _, err := ParseMode(Mode(0).String()); !errors.Is(err, errs.ErrParameters) {
		t.Error(err)
	}
	if _, err := ParseRounding(Rounding(0).String()); !errors.Is(err, errs.ErrParameters) {
		t.Error(err)
	}
}
