package seal_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
)

func eachMode(t *testing.T, f func(t *testing.T, r seal.Round, secret []int32)) {
	for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
		t.Run(mode.String(), func(t *testing.T) {
			s := choice("n4096-q102", mode, 16, 3, 1, params.Stochastic)
			r, secret := roundOf(t, s, [2]int64{3*int64(s.ChunkValues()) + 10, 55}, 100)
			f(t, r, secret)
		})
	}
}

func TestResendIsByteIdentical(t *testing.T) {
	eachMode(t, func(t *testing.T, r seal.Round, _ []int32) {
		x := gaussianUpdate(rand.New(rand.NewPCG(1, 1)), r.Values())
		first, err := seal.NewSealer(r, secretsOf(1), x, 7, 2, seal.From("client-1"))
		if err != nil {
			t.Fatal(err)
		}
		frames := contribution(t, first)
		for i, f := range frames {
			leaf, ok := first.Leaf(i)
			if want := sha256.Sum256(append([]byte{0}, f...)); !ok || leaf != want {
				t.Fatalf("leaf %d is not H(0 ‖ frame)", i)
			}
		}
		// The same sealer from the middle, a new one, another number of threads.
		for threads := 1; threads <= 3; threads++ {
			again, err := seal.NewSealer(r, secretsOf(1), bytesCopy(x), 7, threads, seal.From("client-1"))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []*seal.Sealer{first, again} {
				for from := range frames {
					index := from
					err := s.Seal(t.Context(), from, len(frames), func(i int, f []byte) error {
						if i != index || !bytes.Equal(f, frames[i]) {
							return fmt.Errorf("frame %d, in the place of %d, differs", i, index)
						}
						index++
						return nil
					})
					if err != nil || index != len(frames) {
						t.Fatalf("%d threads, from %d to %d: %v", threads, from, index, err)
					}
				}
			}
		}
		// The same bytes where frames lie one after the other.
		for threads := 1; threads <= 3; threads++ {
			s, err := seal.NewSealer(r, secretsOf(1), x, 7, threads, seal.From("client-1"))
			if err != nil {
				t.Fatal(err)
			}
			for from := range frames {
				want := bytes.Join(frames[from:], nil)
				got := make([]byte, len(want))
				if err := s.SealInto(t.Context(), from, len(frames), got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d threads, frames from %d on differ in place: %v", threads, from, err)
				}
				if leaf, ok := s.Leaf(from); !ok || leaf != sha256.Sum256(append([]byte{0}, frames[from]...)) {
					t.Fatalf("leaf %d is not H(0 ‖ frame)", from)
				}
				if err := s.SealInto(t.Context(), from, len(frames), got[1:]); !errors.Is(err, errs.ErrArgument) {
					t.Fatalf("a byte too little room: %v", err)
				}
			}
		}
		other, err := seal.NewSealer(r, secretsOf(2), x, 7, 2, seal.From("client-1"))
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range contribution(t, other) {
			if bytes.Equal(f, frames[i]) {
				t.Fatalf("frame %d does not depend on the seeds", i)
			}
		}
	})
}

func bytesCopy(x []float32) []float32 { return append([]float32(nil), x...) }

func TestChangedUpdateIsRefused(t *testing.T) {
	eachMode(t, func(t *testing.T, r seal.Round, _ []int32) {
		x := gaussianUpdate(rand.New(rand.NewPCG(1, 1)), r.Values())
		s, err := seal.NewSealer(r, secretsOf(1), x, 7, 2, seal.From("client-1"))
		if err != nil {
			t.Fatal(err)
		}
		contribution(t, s)
		changed := r.Scheme.ChunkValues() + 5 // in frame 1
		x[changed] += 0.25
		emitted := 0
		err = s.Seal(t.Context(), 0, s.Frames(), func(int, []byte) error { emitted++; return nil })
		if !errors.Is(err, errs.ErrContribution) || emitted != 1 {
			t.Errorf("%d frames, then %v; want 1 and CF_CONTRIBUTION_CONFLICT", emitted, err)
		}
		room := make([]byte, s.Geometry().Size())
		if err := s.SealInto(t.Context(), 0, s.Frames(), room); !errors.Is(err, errs.ErrContribution) {
			t.Errorf("in place: %v; want CF_CONTRIBUTION_CONFLICT", err)
		}
		if !bytes.Equal(room, make([]byte, len(room))) {
			t.Error("frames are left in place after an error")
		}
		x[changed] -= 0.25
	})
}

func TestNotFiniteNamesTheTensor(t *testing.T) {
	eachMode(t, func(t *testing.T, r seal.Round, _ []int32) {
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			for name, at := range map[string]int64{"weight": 12345, "bias": r.Values() - 1} {
				x := make([]float32, r.Values())
				x[at] = float32(bad)
				_, err := seal.NewSealer(r, secretsOf(1), x, 7, 2, seal.From("client-1"))
				if !errors.Is(err, errs.ErrNotFinite) || !strings.Contains(err.Error(), `"`+name+`"`) {
					t.Errorf("%v in %s: %v", bad, name, err)
				}
			}
		}
	})
}

func TestClippedValuesAreCountedAndReported(t *testing.T) {
	eachMode(t, func(t *testing.T, r seal.Round, secret []int32) {
		c := &cohort{round: r, secret: secret, weights: []uint32{100, 100}}
		if r.Scheme.Mode == params.SharedKey {
			c.weights = []uint32{1, 1}
		}
		for range 2 {
			x := make([]float32, r.Values())
			x[0], x[1], x[r.Values()-1] = 0.51, -77, 2.0001
			x[2], x[3] = 0.5, -0.5
			c.updates = append(c.updates, x)
		}
		s, err := seal.NewSealer(r, secretsOf(0), c.updates[0], c.numExamples(0), 2, seal.From("client-1"))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(s.Clipped()); got != "[2 1]" {
			t.Errorf("clipped %s, want [2 1]", got)
		}
		c.seal(t, 2)
		result := c.fold(t)
		c.compare(t, c.open(t, result, 2))
		o, err := seal.NewOpener(r, c.release(t), 1)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := o.OpenControl(result[len(result)-1])
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(200)
		if r.Scheme.Mode == params.SharedKey {
			want = 2
		}
		if entries[params.ControlWeight] != want || entries[params.ControlClipped] != 6 || entries[r.Controls().Clipped(0)] != 4 || entries[r.Controls().Clipped(1)] != 2 || len(entries) != r.Controls().Count() {
			t.Errorf("control entries %v", entries)
		}
	})
}

func TestSealerRefusesBadInput(t *testing.T) {
	eachMode(t, func(t *testing.T, r seal.Round, _ []int32) {
		x := make([]float32, r.Values())
		for name, c := range map[string]struct {
			round  func(*seal.Round)
			values []float32
			weight uint32
			want   error
		}{
			"weight 0":         {nil, x, 0, errs.ErrWeight},
			"weight above cap": {nil, x, 101, errs.ErrWeight},
			"too short":        {nil, x[1:], 1, errs.ErrLayout},
			"too long":         {nil, append(x, 0), 1, errs.ErrLayout},
			"empty":            {nil, nil, 1, errs.ErrLayout},
			"no scheme":        {func(r *seal.Round) { r.Scheme = nil }, x, 1, errs.ErrParameters},
			"many metrics":     {func(r *seal.Round) { r.Metrics = make([]string, r.Scheme.N()) }, x, 1, errs.ErrParameters},
			"no cap":           {func(r *seal.Round) { r.WeightCap = 0 }, x, 1, errs.ErrParameters},
			"no range":         {func(r *seal.Round) { r.Tensors = []seal.Tensor{{Name: "a", Count: r.Values()}} }, x, 1, errs.ErrParameters},
		} {
			bent := r
			if c.round != nil {
				c.round(&bent)
			}
			if _, err := seal.NewSealer(bent, secretsOf(1), c.values, c.weight, 1, seal.From("client-1")); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
		if r.Scheme.Mode == params.SharedKey {
			bent := r
			bent.PublicKey = r.PublicKey[:100]
			if _, err := seal.NewSealer(bent, secretsOf(1), x, 1, 1, seal.From("client-1")); !errors.Is(err, errs.ErrFrame) {
				t.Errorf("half a public key: %v", err)
			}
		}
		s, err := seal.NewSealer(r, secretsOf(1), x, 1, 1, seal.From("client-1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range [][2]int{{-1, 1}, {2, 1}, {0, s.Frames() + 1}} {
			if err := s.Seal(t.Context(), span[0], span[1], nil); !errors.Is(err, errs.ErrArgument) {
				t.Errorf("frames %v: %v", span, err)
			}
		}
	})
}

// TestSealStopsAtOnce: the consumer's error and a cancelled context come back,
// and the sealer goes on afterwards.
func TestSealStopsAtOnce(t *testing.T) {
	eachMode(t, func(t *testing.T, r seal.Round, _ []int32) {
		s, err := seal.NewSealer(r, secretsOf(1), make([]float32, r.Values()), 1, 2, seal.From("client-1"))
		if err != nil {
			t.Fatal(err)
		}
		full := errors.New("disk full")
		if err := s.Seal(t.Context(), 0, s.Frames(), func(i int, _ []byte) error {
			if i == 1 {
				return full
			}
			return nil
		}); !errors.Is(err, full) {
			t.Errorf("%v, want the consumer's error", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		last := -1
		err = s.Seal(ctx, 0, s.Frames(), func(i int, _ []byte) error {
			last = i
			cancel()
			return nil
		})
		if last == s.Frames()-1 || !errors.Is(err, context.Canceled) {
			t.Errorf("frame %d, then %v", last, err)
		}
		room := make([]byte, s.Geometry().Size())
		if err := s.SealInto(ctx, 0, s.Frames(), room); !errors.Is(err, context.Canceled) || !bytes.Equal(room, make([]byte, len(room))) {
			t.Errorf("in place: %v, or frames left", err)
		}
		if len(contribution(t, s)) != s.Frames() {
			t.Error("not every frame")
		}
	})
}

func TestOpenerRefusesWhatDoesNotBelong(t *testing.T) {
	eachMode(t, func(t *testing.T, r seal.Round, secret []int32) {
		rng := rand.New(rand.NewPCG(2, 2))
		c := &cohort{round: r, secret: secret, weights: []uint32{1, 1, 1}}
		for range 3 {
			c.updates = append(c.updates, gaussianUpdate(rng, r.Values()))
		}
		c.seal(t, 2)
		result := c.fold(t)
		control := len(result) - 1
		good := c.release(t)
		out := make([]float32, r.Scheme.ChunkValues())

		o, err := seal.NewOpener(r, good, 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Open(t.Context(), 0, result[0], out); !errors.Is(err, errs.ErrState) {
			t.Errorf("a data frame before the control chunk: %v", err)
		}
		if _, err := o.OpenControl(result[0]); !errors.Is(err, errs.ErrFrameContext) {
			t.Errorf("a data frame as control chunk: %v", err)
		}
		if _, err := o.OpenControl(result[control]); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			index int
			frame []byte
			out   []float32
			want  error
		}{
			"another chunk":      {0, result[1], out, errs.ErrFrameContext},
			"one client's frame": {0, c.frames[0][0], out, errs.ErrFrameContext},
			"truncated":          {0, result[0][:len(result[0])-1], out, errs.ErrFrame},
			"empty":              {0, nil, out, errs.ErrFrame},
			"short output":       {0, result[0], out[1:], errs.ErrArgument},
			"index -1":           {-1, result[0], out, errs.ErrArgument},
			"the control index":  {control, result[control], out, errs.ErrArgument},
		} {
			if err := o.Open(t.Context(), c.index, c.frame, c.out); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
		all := make([]float32, r.Values())
		swapped := append([][]byte(nil), result[:control]...)
		swapped[1] = result[0]
		if err := o.OpenRange(t.Context(), 0, swapped, all); !errors.Is(err, errs.ErrFrameContext) {
			t.Errorf("swapped frames: %v", err)
		}
		if err := o.OpenRange(t.Context(), 1, result[:control], all); !errors.Is(err, errs.ErrArgument) {
			t.Errorf("more frames than there are: %v", err)
		}
		if err := o.OpenRange(t.Context(), 1, result[1:control], all[r.Scheme.ChunkValues():]); err != nil {
			t.Error(err)
		}

		// A secret of another set of clients: the sum does not open.
		wrong := good
		if r.Scheme.Mode == params.SumKey {
			wrong.Secret, err = ckks.SumSecrets(r.Scheme.Preset, r.SpecDigest, []ckks.Seed{secretsOf(0).Key, secretsOf(1).Key, secretsOf(9).Key})
		} else {
			wrong.Secret, _, err = ckks.GenerateKeyPair(r.Scheme.Preset, r.Nonce, seed(5))
		}
		if err != nil {
			t.Fatal(err)
		}
		bad, err := seal.NewOpener(r, wrong, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bad.OpenControl(result[control]); !errors.Is(err, errs.ErrDecrypt) {
			t.Errorf("another secret: %v, want CF_DECRYPT", err)
		}
	})
}

func TestReleasesAreChecked(t *testing.T) {
	s := choice("n4096-q102", params.SharedKey, 8, 4, 10, params.Stochastic)
	r, secret := roundOf(t, s, [2]int64{100, 5}, 100)
	good := seal.Release{Secret: secret, Terms: 3, WeightSum: 15, Squares: 110}
	if _, err := seal.NewOpener(r, good, 1); !errors.Is(err, errs.ErrWeightSum) {
		t.Fatalf("a round with tags, no members: %v", err)
	}
	r.Tag = nil
	if _, err := seal.NewOpener(r, good, 1); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*seal.Release){
		"no clients":          func(r *seal.Release) { r.Terms, r.WeightSum, r.Squares = 0, 0, 0 },
		"five clients":        func(r *seal.Release) { r.Terms = 5 },
		"weights below n":     func(r *seal.Release) { r.WeightSum = 2 },
		"weights above n·10":  func(r *seal.Release) { r.WeightSum = 31 },
		"squares below Σw":    func(r *seal.Release) { r.Squares = 14 },
		"squares below mean²": func(r *seal.Release) { r.Squares = 74 },
		"squares above":       func(r *seal.Release) { r.Squares = 151 },
	} {
		bad := good
		change(&bad)
		if _, err := seal.NewOpener(r, bad, 1); !errors.Is(err, errs.ErrWeightSum) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFalseWeightsAreRefused: what the control chunk says must be possible for
// the release's cohort.
func TestFalseWeightsAreRefused(t *testing.T) {
	eachMode(t, func(t *testing.T, r seal.Round, secret []int32) {
		c := &cohort{round: r, secret: secret, weights: []uint32{90, 90}}
		if r.Scheme.Mode == params.SharedKey {
			c.weights = []uint32{1, 1}
		}
		for range 2 {
			c.updates = append(c.updates, make([]float32, r.Values()))
		}
		c.seal(t, 1)
		result := c.fold(t)
		rel := c.release(t)
		if r.Scheme.Mode == params.SumKey {
			bent := r
			bent.WeightCap = 89
			o, err := seal.NewOpener(bent, rel, 1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.OpenControl(result[len(result)-1]); !errors.Is(err, errs.ErrWeightSum) {
				t.Errorf("weights above the cap: %v", err)
			}
			return
		}
		// The aggregator folds a client twice and says so: the frame's weight
		// must be the release's.
		rel.WeightSum, rel.Squares = 2, 2
		o, err := seal.NewOpener(r, rel, 1)
		if err != nil {
			t.Fatal(err)
		}
		c.frames = append(c.frames, c.frames[0])
		c.weights = append(c.weights, 1)
		twice := c.fold(t)
		if _, err := o.OpenControl(twice[len(twice)-1]); !errors.Is(err, errs.ErrFrameContext) {
			t.Errorf("a client folded twice: %v", err)
		}
	})
}

// TestWarmSealAllocatesNothingPerChunk compares passes over few and many
// chunks: what a pass allocates does not grow with its chunks.
func TestWarmSealAllocatesNothingPerChunk(t *testing.T) {
	eachMode(t, func(t *testing.T, r seal.Round, _ []int32) {
		r.Tensors[0].Count = 12 * int64(r.Scheme.ChunkValues())
		s, err := seal.NewSealer(r, secretsOf(1), make([]float32, r.Values()), 1, 2, seal.From("client-1"))
		if err != nil {
			t.Fatal(err)
		}
		allocations := func(to int) float64 {
			return testing.AllocsPerRun(1, func() {
				if err := s.Seal(t.Context(), 0, to, func(int, []byte) error { return nil }); err != nil {
					t.Fatal(err)
				}
			})
		}
		// The runtime allocates now and then for itself: the least counts.
		few, many := math.Inf(1), math.Inf(1)
		for range 8 {
			few, many = min(few, allocations(2)), min(many, allocations(12))
		}
		if many > few {
			t.Errorf("%v allocations for 2 chunks, %v for 12", few, many)
		}
	})
}

func TestWarmOpenAllocatesNothingPerChunk(t *testing.T) {
	eachMode(t, func(t *testing.T, r seal.Round, secret []int32) {
		c := &cohort{round: r, secret: secret, weights: []uint32{1}, updates: [][]float32{make([]float32, r.Values())}}
		c.seal(t, 1)
		result := c.fold(t)
		o, err := seal.NewOpener(r, c.release(t), 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.OpenControl(result[len(result)-1]); err != nil {
			t.Fatal(err)
		}
		out := make([]float32, r.Scheme.ChunkValues())
		ctx := t.Context()
		if n := testing.AllocsPerRun(5, func() {
			if err := o.Open(ctx, 1, result[1], out); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations a chunk", n)
		}
	})
}

// TestBoundIsTheStatedOne pins the formula that reports print.
func TestBoundIsTheStatedOne(t *testing.T) {
	sum := choice("n4096-q102", params.SumKey, 8, 4, 1, params.NearestEven)
	shared := choice("n4096-q102", params.SharedKey, 8, 4, 3, params.Stochastic)
	rel := seal.Release{Terms: 4, WeightSum: 4, Squares: 4}
	if got, want := (seal.Round{Scheme: sum, WeightCap: 50}).Bound(2, rel, 100), 2.0/127/2*4*50/100; got != want {
		t.Errorf("sum-key: %v, want %v", got, want)
	}
	if got, want := (seal.Round{Scheme: shared, WeightCap: 50}).Bound(2, rel, 4), 2.0/127; got != want {
		t.Errorf("shared-key: %v, want %v", got, want)
	}
}
