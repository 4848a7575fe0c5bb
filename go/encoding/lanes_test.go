package encoding

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

func scheme(t testing.TB, preset string, bits, clients int, rounding params.Rounding) *params.Scheme {
	t.Helper()
	s, err := params.NewScheme(params.Choice{Preset: preset, Mode: params.SumKey, Bits: bits, Clients: clients, Weight: 1, Rounding: rounding})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func planes(s *params.Scheme) [][]uint64 {
	out := make([][]uint64, len(s.Primes))
	for w := range out {
		out[w] = make([]uint64, s.N())
		for i := range out[w] {
			out[w][i] = ^uint64(0) // what an earlier chunk left
		}
	}
	return out
}

// coefficient i as one integer.
func coefficient(words [][]uint64, i int) *big.Int {
	v := new(big.Int)
	for w := len(words) - 1; w >= 0; w-- {
		v.Lsh(v, 64).Or(v, new(big.Int).SetUint64(words[w][i]))
	}
	return v
}

// reference is the encoding of one value as docs/spec.md states it, in plain
// arithmetic.
func reference(x, tensorRange float32, factor float64, bits int, rho uint32, rounding params.Rounding) int64 {
	m := int64(1)<<(bits-1) - 1
	scale := factor * (float64(m) / float64(tensorRange))
	magnitude := math.Abs(float64(x))
	clipped := magnitude > float64(tensorRange)/factor
	sign := int64(1)
	if math.Signbit(float64(x)) {
		sign = -1
	}
	if rounding == params.NearestEven {
		n := m
		if !clipped {
			n = min(int64(math.RoundToEven(magnitude*scale)), m)
		}
		return sign*n + m
	}
	y := m << 32
	if !clipped {
		y = min(int64(math.Trunc(magnitude*scale*(1<<32))), y)
	}
	v := new(big.Int).Add(big.NewInt(sign*y), big.NewInt(int64(rho)))
	return v.Rsh(v, 32).Int64() + m // Rsh of a negative number rounds down
}

func values(rng *rand.Rand, n int, scale float64) []float32 {
	x := make([]float32, n)
	special := []float32{0, float32(math.Copysign(0, -1)), 1, -1, 0.5, -0.5, 1e-30, -1e-30, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, 0.1, -0.1, 0.3}
	for i := range x {
		if x[i] = float32(rng.NormFloat64() * scale); rng.IntN(4) == 0 {
			x[i] = special[rng.IntN(len(special))]
		}
	}
	return x
}

func TestEncodeFollowsTheSpecification(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 9))
	for _, p := range params.Presets() {
		for _, bits := range []int{4, 8, 13, 16, 24, 30} {
			for _, rounding := range []params.Rounding{params.Stochastic, params.NearestEven} {
				s := scheme(t, p.Name, bits, 9, rounding)
				t.Run(fmt.Sprintf("%s/bits=%d/%v", p.Name, bits, rounding), func(t *testing.T) {
					l, err := NewLanes(s, []Tensor{
						{Count: 1, Range: 0.1}, {Count: 0, Range: 1}, {Count: 700, Range: 1}, {Count: 3, Range: 0.3},
						{Count: int64(s.ChunkValues()), Range: 1e-3},
					})
					if err != nil {
						t.Fatal(err)
					}
					for _, first := range []int64{0, 1, 500, 701} {
						for _, n := range []int{1, s.Lanes, 3*s.Lanes + 1, 1500} {
							x := values(rng, n, 0.5)
							rho := make([]byte, 4*n)
							for i := range rho {
								rho[i] = byte(rng.Uint32())
							}
							factor := 1 - rng.Float64()/2
							words := planes(s)
							if got, want := l.Encode(words, x, first, factor, rho), (n+s.Lanes-1)/s.Lanes; got != want {
								t.Fatalf("%d coefficients, want %d", got, want)
							}
							for i := range (n + s.Lanes - 1) / s.Lanes {
								want := new(big.Int)
								for lane := range s.Lanes {
									v := i*s.Lanes + lane
									if v >= n {
										break
									}
									r := l.tensors[l.at(first+int64(v))].limit
									u := reference(x[v], float32(r), factor, bits, binary.LittleEndian.Uint32(rho[4*v:]), rounding)
									want.Or(want, new(big.Int).Lsh(big.NewInt(u), uint(lane*s.LaneWidth())))
								}
								if got := coefficient(words, i); got.Cmp(want) != 0 {
									t.Fatalf("first %d, %d values, factor %v, coefficient %d: %x, want %x", first, n, factor, i, got, want)
								}
							}
						}
					}
				})
			}
		}
	}
}

// TestScanCountsWhatEncodeClips compares the count with |x| > range/factor.
func TestScanCountsWhatEncodeClips(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 9))
	s := scheme(t, "n4096-q102", 16, 9, params.Stochastic)
	l, err := NewLanes(s, []Tensor{
		{Count: 1000, Range: 0.1}, {Count: 1, Range: 0.3}, {Count: 5000, Range: math.MaxFloat32}, {Count: 999, Range: 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, factor := range []float64{1, 1.0 / 3, 1.0 / 255} {
		x, want := values(rng, int(l.Values()), 0.3), make([]Seen, 4)
		for v := range x {
			k := l.at(int64(v))
			if math.Abs(float64(x[v])) > l.tensors[k].limit/factor {
				want[k].Clipped++
			}
			want[k].Largest = max(want[k].Largest, float32(math.Abs(float64(x[v]))))
		}
		got := make([]Seen, 4)
		for from := 0; from < len(x); from += 777 {
			if k := l.Scan(x[from:min(from+777, len(x))], int64(from), factor, got); k >= 0 {
				t.Fatalf("tensor %d holds no NaN", k)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("factor %v: saw %v, want %v", factor, got, want)
		}
	}
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), math.Float32frombits(0xffc00001), math.Float32frombits(0x7f800001)} {
		for _, at := range []int{0, 999, 1000, 1001, int(l.Values()) - 1} {
			x := make([]float32, l.Values())
			x[at] = bad
			if k := l.Scan(x, 0, 1, make([]Seen, 4)); k != l.at(int64(at)) {
				t.Errorf("%v at value %d: tensor %d, want %d", bad, at, k, l.at(int64(at)))
			}
		}
	}
}

// TestNothingLeavesItsLane encodes bit patterns that Scan refuses: an update
// that changes under our hands must not reach other values' lanes.
func TestNothingLeavesItsLane(t *testing.T) {
	for _, rounding := range []params.Rounding{params.Stochastic, params.NearestEven} {
		for _, r := range []float32{math.SmallestNonzeroFloat32, 1e-38, 1, math.MaxFloat32} {
			for _, factor := range []float64{1, 1.0 / 4096} {
				s := scheme(t, "n4096-q102", 24, 2, rounding)
				patterns := []uint32{0, 1 << 31, 1, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0xffffffff, 0x7fffffff}
				l, err := NewLanes(s, []Tensor{{Count: int64(len(patterns)), Range: r}})
				if err != nil {
					t.Fatal(err)
				}
				x, rho := make([]float32, len(patterns)), make([]byte, 4*len(patterns))
				for i, b := range patterns {
					x[i] = math.Float32frombits(b)
				}
				for i := range rho {
					rho[i] = 0xff
				}
				words := planes(s)
				n := l.Encode(words, x, 0, factor, rho)
				for i := range n {
					rest := coefficient(words, i)
					for range s.Lanes {
						u := new(big.Int).And(rest, big.NewInt(1<<s.LaneWidth()-1))
						if u.Int64() > 2*s.Half() {
							t.Fatalf("%v, range %v, factor %v: a lane holds %v, at most %d", rounding, r, factor, u, 2*s.Half())
						}
						rest.Rsh(rest, uint(s.LaneWidth()))
					}
					if rest.Sign() != 0 {
						t.Fatal("bits above the lanes")
					}
				}
			}
		}
	}
}

func TestStochasticRoundingIsUnbiased(t *testing.T) {
	// 10^6 roundings of y = 0.3 steps: the mean has standard deviation
	// 4.6·10^-4 and is off by more than 6 of those with probability 2·10^-9.
	const n = 1_000_000
	q := quantiser{scale: 1, last: math.MaxUint32 >> 2, beyond: math.MaxUint32 >> 2, half: 127}
	rng := rand.New(rand.NewPCG(3, 9))
	x, rho, steps := make([]float32, n), make([]byte, 4*n), make([]uint32, n)
	for i := range x {
		x[i] = -0.3
		binary.LittleEndian.PutUint32(rho[4*i:], rng.Uint32())
	}
	q.stochastic(steps, x, rho)
	sum := 0.0
	for _, u := range steps {
		if u != 126 && u != 127 {
			t.Fatalf("-0.3 was rounded to %d", int64(u)-127)
		}
		sum += float64(u) - 127
	}
	if d := sum/n + 0.3; math.Abs(d) > 6*4.6e-4 {
		t.Errorf("the mean is off by %v", d)
	}
}

// TestDecodeInvertsSums adds encodings of several clients in plain integers.
func TestDecodeInvertsSums(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 9))
	for _, p := range params.Presets() {
		for _, bits := range []int{8, 16, 24} {
			s := scheme(t, p.Name, bits, 5, params.Stochastic)
			l, err := NewLanes(s, []Tensor{{Count: 11, Range: 0.7}, {Count: int64(3*s.ChunkValues()) - 12, Range: 0.2}})
			if err != nil {
				t.Fatal(err)
			}
			n, first := min(s.ChunkValues()-5, 9000), int64(3)
			if n%s.Lanes == 0 && s.Lanes > 1 {
				n--
			}
			coefficients := (n + s.Lanes - 1) / s.Lanes
			total := make([]*big.Int, coefficients)
			sums := make([]int64, n)
			for range 5 {
				x, rho := values(rng, n, 0.2), make([]byte, 4*n)
				words := planes(s)
				l.Encode(words, x, first, 1, rho)
				for i := range total {
					if total[i] == nil {
						total[i] = new(big.Int)
					}
					total[i].Add(total[i], coefficient(words, i))
				}
				for v := range sums {
					r := float32(l.tensors[l.at(first+int64(v))].limit)
					sums[v] += reference(x[v], r, 1, bits, 0, params.Stochastic) - s.Half()
				}
			}
			words := planes(s)
			split := func() {
				for i, v := range total {
					rest := new(big.Int).Set(v)
					for w := range words {
						words[w][i] = new(big.Int).And(rest, new(big.Int).SetUint64(math.MaxUint64)).Uint64()
						rest.Rsh(rest, 64)
					}
				}
			}
			split()
			out := make([]float32, n)
			if err := l.Decode(out, words, first, 5, 2.5); err != nil {
				t.Fatal(err)
			}
			for v := range out {
				r := l.tensors[l.at(first+int64(v))].limit
				if want := float32(float64(sums[v]) * (r / float64(s.Half()) / 2.5)); out[v] != want {
					t.Fatalf("%s, %d bits, value %d: %v, want %v", p.Name, bits, v, out[v], want)
				}
			}
			refuse := func(name string, i, bit int) {
				t.Helper()
				keep := total[i]
				total[i] = new(big.Int).SetBit(keep, bit, 1)
				if total[i].Cmp(keep) == 0 {
					total[i].Add(total[i], big.NewInt(1)).SetBit(total[i], bit, 1)
				}
				split()
				if err := l.Decode(out, words, first, 5, 2.5); !errors.Is(err, errs.ErrDecrypt) {
					t.Errorf("%s, %d bits, %s: %v, want CF_DECRYPT", p.Name, bits, name, err)
				}
				total[i] = keep
			}
			if top := s.Lanes * s.LaneWidth(); top < 64*len(words) {
				refuse("a bit above the lanes", 0, top)
			}
			refuse("the top bit", coefficients-1, 64*len(words)-1)
			if s.Lanes > 1 {
				refuse("a padding lane", coefficients-1, s.Lanes*s.LaneWidth()-1)
				refuse("the lowest padding bit", coefficients-1, (n-(coefficients-1)*s.Lanes)*s.LaneWidth())
			}
			// 5 terms of 2M leave the top values of a lane unused.
			keep := total[0]
			mask := new(big.Int).Lsh(big.NewInt(1), uint(s.LaneWidth()))
			total[0] = new(big.Int).Or(keep, mask.Sub(mask, big.NewInt(1)))
			split()
			if err := l.Decode(out, words, first, 5, 2.5); !errors.Is(err, errs.ErrDecrypt) {
				t.Errorf("%s, %d bits: a lane above 2M·n: %v", p.Name, bits, err)
			}
			total[0] = keep
			split()
			if err := l.Decode(out, words, first, 5, 2.5); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestLayoutsAreChecked(t *testing.T) {
	s := scheme(t, "n2048-q52", 8, 2, params.Stochastic)
	for name, c := range map[string]struct {
		tensors []Tensor
		want    error
	}{
		"no tensors":      {nil, errs.ErrLayout},
		"no values":       {[]Tensor{{Count: 0, Range: 1}}, errs.ErrLayout},
		"negative count":  {[]Tensor{{Count: -1, Range: 1}}, errs.ErrLayout},
		"too many values": {[]Tensor{{Count: 1, Range: 1}, {Count: params.MaxValues, Range: 1}}, errs.ErrLayout},
		"range 0":         {[]Tensor{{Count: 1, Range: 0}}, errs.ErrParameters},
		"negative range":  {[]Tensor{{Count: 1, Range: -1}}, errs.ErrParameters},
		"NaN":             {[]Tensor{{Count: 1, Range: float32(math.NaN())}}, errs.ErrParameters},
		"infinity":        {[]Tensor{{Count: 1, Range: float32(math.Inf(1))}}, errs.ErrParameters},
	} {
		if _, err := NewLanes(s, c.tensors); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestWarmEncodeAndDecodeAllocateNothing(t *testing.T) {
	s := scheme(t, "n8192-q204", 16, 8, params.Stochastic)
	l, err := NewLanes(s, []Tensor{{Count: int64(s.ChunkValues()), Range: 1}})
	if err != nil {
		t.Fatal(err)
	}
	x, rho, words := make([]float32, s.ChunkValues()), make([]byte, 4*s.ChunkValues()), planes(s)
	if n := testing.AllocsPerRun(5, func() {
		l.Encode(words, x, 0, 1, rho)
		if err := l.Decode(x, words, 0, 1, 1); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a chunk", n)
	}
}

func TestControlEntriesAddUp(t *testing.T) {
	s := scheme(t, "n2048-q52", 8, 200, params.Stochastic)
	words, total := planes(s), planes(s)
	for w := range total {
		clear(total[w])
	}
	entries := []uint64{1, MaxControl, 0, 1 << 40, 0xffff, 0x10000}
	const terms = 200
	for range terms {
		if err := EncodeControl(words, entries); err != nil {
			t.Fatal(err)
		}
		for w := range words {
			for i := range 3 * len(entries) {
				total[w][i] += words[w][i]
			}
		}
	}
	got, high, err := DecodeControl(total, len(entries), terms)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range entries {
		if got[k] != terms*v || high[k] != 0 {
			t.Errorf("entry %d: %d, want %d", k, got[k], terms*v)
		}
	}
	if _, _, err := DecodeControl(total, len(entries), terms-1); !errors.Is(err, errs.ErrDecrypt) {
		t.Errorf("a limb above what the terms can sum to: %v", err)
	}
	if err := EncodeControl(words, []uint64{MaxControl + 1}); !errors.Is(err, errs.ErrLimit) {
		t.Errorf("49 bits: %v", err)
	}
	wide := scheme(t, "n4096-q102", 8, 4096, params.Stochastic)
	words = planes(wide)
	for w := range words {
		clear(words[w])
	}
	for i := range 3 {
		words[0][i] = 4096 * 255 * 0xffff
	}
	// As many terms as there can be, of the largest entry: 2^48−1 times 4096·255.
	wantHigh, want := bits.Mul64(MaxControl, 4096*255)
	if got, high, err := DecodeControl(words, 1, 4096*255); err != nil || got[0] != want || high[0] != wantHigh {
		t.Errorf("a sum of more than 64 bits: %d, %d, want %d, %d: %v", high, got, wantHigh, want, err)
	}
	words[1][2] = 1
	if _, _, err := DecodeControl(words, 1, 4096*255); !errors.Is(err, errs.ErrDecrypt) {
		t.Errorf("an upper word: %v", err)
	}
}

// TestTheFastRoundingIsThePortableOne bit for bit.
func TestTheFastRoundingIsThePortableOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 5))
	for _, bits := range []int{4, 8, 12, 16, 20, 24} {
		for range 200 {
			s := scheme(t, "n8192-q204", bits, 4, params.Stochastic)
			limit := math.Ldexp(1+rng.Float64(), rng.IntN(60)-40)
			l, err := NewLanes(s, []Tensor{{Count: 1 << 20, Range: float32(limit)}})
			if err != nil {
				t.Fatal(err)
			}
			q := l.quantiser(&l.tensors[0], 1/float64(1+rng.IntN(1000)))
			n := rng.IntN(100)
			values, rho := make([]float32, n), make([]byte, 4*n)
			for i := range values {
				switch rng.IntN(6) {
				case 0:
					values[i] = []float32{0, float32(math.Copysign(0, -1)), math.SmallestNonzeroFloat32, -math.MaxFloat32, math.MaxFloat32, float32(limit), -float32(limit)}[rng.IntN(7)]
				default:
					values[i] = float32(rng.NormFloat64() * limit)
				}
				binary.LittleEndian.PutUint32(rho[4*i:], []uint32{0, math.MaxUint32, rng.Uint32()}[rng.IntN(3)])
			}
			got, want := make([]uint32, n), make([]uint32, n)
			q.stochastic(got, values, rho)
			q.stochasticPlain(want, values, rho)
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("%d bits: %g rounds to %d and to %d", bits, values[i], got[i], want[i])
				}
			}
		}
	}
}
