package service_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/errs"
)

// TestRangesAreAgreedOn runs rounds whose tensors differ by 10^6 in magnitude,
// and whose updates grow and shrink by 10^3 from round to round. Nobody sets a
// range. Negotiated ranges clip nothing and stay within their bound; adaptive
// ones do once they have followed.
func TestRangesAreAgreedOn(t *testing.T) {
	const small, large = 600, 400
	scales := []float64{1, 1e-3, 1, 1e3}
	for _, mode := range []string{"sum-key", "shared-key"} {
		for _, ranges := range []string{"negotiated", "adaptive"} {
			t.Run(mode+"/"+ranges, func(t *testing.T) {
				w := newWorld(t, 3, 3)
				w.create(t, client.TaskRequest{
					Mode: mode, Ranges: ranges, Rounds: uint32(len(scales)), Metrics: []string{"loss", "accuracy"},
					Layout: []client.TensorSpec{{Name: "small", Shape: []uint64{small}}, {Name: "large", Shape: []uint64{large}}, {Name: "still", Shape: []uint64{7}}},
				}, make([]float32, small+large+7))
				rng := rand.New(rand.NewPCG(8, 8))
				members := make([]*client.Client, 3)
				for i := range members {
					members[i] = w.client(t, i)
				}
				for step, scale := range scales {
					updates, means, reports := make([][]float32, 3), make([][]float32, 3), make([]*client.Report, 3)
					weights := []uint32{10, 20, 1000} // num_examples
					for i := range updates {
						updates[i] = make([]float32, small+large+7)
						for k := range small {
							updates[i][k] = float32(scale * 1e-6 * (2*rng.Float64() - 1))
						}
						for k := range large {
							updates[i][small+k] = float32(scale * (2*rng.Float64() - 1))
						}
						means[i] = make([]float32, len(updates[i]))
					}
					together(t, 3, func(i int) (err error) {
						u := client.Update{Values: updates[i], Examples: int64(weights[i]), Metrics: map[string]float64{"loss": float64(i + 1)}}
						reports[i], err = members[i].Average(t.Context(), u, means[i], quiet)
						return err
					})
					if t.Failed() {
						return
					}
					r := reports[0]
					for i := range weights {
						weights[i] = reports[i].Weight // shared-key rounds them to 255
					}
					total := float64(weights[0] + weights[1] + weights[2])
					if int(r.Round) != step || fmt.Sprint(r.Ranges) != fmt.Sprint(reports[2].Ranges) || !slices.Equal(means[0], means[2]) {
						t.Fatalf("round %d of step %d, ranges %v and %v", r.Round, step, r.Ranges, reports[2].Ranges)
					}
					if want := float64(weights[0]+2*weights[1]+3*weights[2]) / total; math.Abs(r.Metrics["loss"]-want) > 1e-2 || len(r.Metrics) != 1 {
						t.Fatalf("metrics %v, want a loss of %v", r.Metrics, want)
					}
					if ranges == "adaptive" && scale > scales[max(step-1, 0)] {
						if r.ClippedTotal == 0 || r.ClippedAll["large"] == 0 {
							t.Fatal("updates grew a thousand times and nothing was clipped")
						}
						continue
					}
					if r.ClippedTotal != 0 {
						t.Fatalf("step %d: %d values clipped, ranges %v", step, r.ClippedTotal, r.Ranges)
					}
					if bits := r.EffectiveBits["large"]; ranges == "negotiated" && !(bits > 0 && bits <= 16) {
						t.Fatalf("%v effective bits", r.EffectiveBits)
					}
					at := 0
					for _, tensor := range []struct {
						name  string
						count int
					}{{"small", small}, {"large", large}, {"still", 7}} {
						part := func(x []float32) []float32 { return x[at : at+tensor.count] }
						checkMean(t, [][]float32{part(updates[0]), part(updates[1]), part(updates[2])}, weights, [][]float32{part(means[0])}, r.Bounds[tensor.name])
						at += tensor.count
					}
					// The bound of a tensor is that of its own magnitude.
					if ranges == "negotiated" && r.Bounds["small"] > 1e-5*r.Bounds["large"] {
						t.Fatalf("bounds %v", r.Bounds)
					}
				}
				if _, err := members[0].Open(t.Context()); !errors.Is(err, errs.ErrTaskEnded) {
					t.Fatalf("after the last round: %v", err)
				}
			})
		}
	}
}

// A metric that the task does not name, or that would not travel as it is, is
// refused before anything is sent.
func TestMetricsAreNamedInTheTask(t *testing.T) {
	w := newWorld(t, 3, 3)
	w.create(t, client.TaskRequest{Rounds: 1, Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{5}}}}, make([]float32, 5))
	x := w.client(t, 0)
	r, err := x.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		value float64
		want  error
		text  string
	}{
		{"f1", 1, errs.ErrArgument, "f1"},
		{"loss", math.NaN(), errs.ErrNotFinite, "loss"},
		{"loss", math.Inf(-1), errs.ErrNotFinite, "loss"},
		{"loss", 1e30, errs.ErrArgument, `"loss" is 1e+30; metrics travel between -4194304 and 4194304`},
		{"loss", math.Nextafter(-1<<22, -1e9), errs.ErrArgument, "4194304"},
	} {
		_, err := x.Contribute(t.Context(), r, client.Update{Values: make([]float32, 5), Examples: 1, Metrics: map[string]float64{c.name: c.value}}, quiet)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s %g: %v", c.name, c.value, err)
		}
	}
}

// Names that frameworks log travel, and so do the largest values.
func TestMetricsHaveTheNamesOfFrameworks(t *testing.T) {
	w := newWorld(t, 3, 3)
	w.create(t, client.TaskRequest{Rounds: 1, Metrics: []string{"val/loss", "AUROC", "100%|top-1", "test_acc/dataloader_idx_0"}, Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{5}}}}, make([]float32, 5))
	together(t, 3, func(i int) error {
		given := map[string]float64{"val/loss": 1 << 22, "AUROC": 0.25 * float64(i), "100%|top-1": -1 << 22}
		r, err := w.client(t, i).Average(t.Context(), client.Update{Values: make([]float32, 5), Examples: 1000, Metrics: given}, make([]float32, 5), quiet)
		if err != nil {
			return err
		}
		given["AUROC"] = 0.25
		if !maps.Equal(r.Metrics, given) {
			t.Errorf("%v", r.Metrics)
		}
		return nil
	})
	for _, name := range []string{"", "a b", "a\n", "ä", "\x1b[2J", strings.Repeat("x", 129)} {
		q := client.TaskRequest{Name: "u", Metrics: []string{name}, Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{5}}}}
		q.Members = []client.MemberSpec{{Name: "client-0"}, {Name: "client-1"}, {Name: "client-2"}}
		if _, err := w.admin(t).CreateTask(t.Context(), q, make([]float32, 5)); !errors.Is(err, errs.ErrArgument) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
