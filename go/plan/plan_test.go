package plan_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/plan"
	"github.com/cryptflow/cryptflow/go/seal"
)

func request(values int64, clients, bits int) plan.Request {
	return plan.Request{Values: values, Clients: clients, Bits: bits, Mode: params.SumKey, Rounding: params.Stochastic, Threads: 1}
}

func shared(weightCap, clients, bits int, encoding params.Encoding) plan.Request {
	q := request(10, clients, bits)
	q.Mode, q.WeightCap, q.Encoding = params.SharedKey, weightCap, encoding
	return q
}

// TestTheStepIsTheBoundOfAMean in every encoding and rounding: what is planned
// is what a round then states.
func TestTheStepIsTheBoundOfAMean(t *testing.T) {
	for _, encoding := range []params.Encoding{params.Lanes, params.Slots, params.SlotsReal} {
		for _, rounding := range []params.Rounding{params.Stochastic, params.NearestEven} {
			q := request(1000, 3, 12)
			q.Encoding, q.Rounding = encoding, rounding
			options, err := plan.Options(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			s, err := params.NewScheme(params.Choice{Preset: options[0].Preset, Mode: q.Mode, Bits: 12, Clients: 3, Weight: 1, Rounding: rounding, Encoding: encoding})
			if err != nil {
				t.Fatal(err)
			}
			bound := seal.Round{Scheme: s, WeightCap: 1}.Bound(1, seal.Release{Terms: 3}, 3)
			if math.Abs(options[0].Step/bound-1) > 1e-12 {
				t.Errorf("%v, %v: a step of %g, a bound of %g", encoding, rounding, options[0].Step, bound)
			}
		}
	}
}

// TestLanesAreThoseOfTheDesign compares with the table of docs/spec.md's
// source, lanes of n4096 and n8192 by cohort and bits.
func TestLanesAreThoseOfTheDesign(t *testing.T) {
	for _, row := range []struct{ clients, bits, small, large int }{
		{4, 8, 9, 19}, {4, 16, 5, 10}, {8, 8, 8, 17}, {8, 24, 3, 7}, {16, 16, 4, 9},
		{64, 8, 6, 13}, {64, 16, 4, 8}, {64, 20, 3, 7}, {256, 16, 3, 8}, {1024, 16, 3, 7}, {4096, 12, 3, 7},
	} {
		options, err := plan.Options(t.Context(), request(1e6, row.clients, row.bits))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range options {
			if want := map[string]int{"n4096-q102": row.small, "n8192-q204": row.large}[o.Preset]; want != 0 && o.Lanes != want {
				t.Errorf("%d clients, %d bits, %s: %d lanes, want %d", row.clients, row.bits, o.Preset, o.Lanes, want)
			}
		}
	}
}

func TestTheFirstHasTheFewestBytes(t *testing.T) {
	for _, values := range []int64{1, 101, 5000, 1 << 20, 25e6, 1e9} {
		for _, clients := range []int{2, 8, 64, 1000} {
			for _, bits := range []int{8, 16, 24} {
				options, err := plan.Options(t.Context(), request(values, clients, bits))
				if err != nil {
					t.Fatal(err)
				}
				for i, o := range options {
					if i > 0 && o.BytesUp < options[i-1].BytesUp {
						t.Errorf("%d values, %d clients, %d bits: order", values, clients, bits)
					}
					if o.SecurityBits != 128 || o.FailureLog2 > -80+0.01 || fmt.Sprint(o.UpValue) != fmt.Sprint(float64(o.BytesUp)/float64(values)) {
						t.Errorf("%+v", o)
					}
				}
			}
		}
	}
	options, err := plan.Options(t.Context(), request(1<<20, 8, 16))
	if err != nil || options[0].UpValue > 2.6 {
		t.Fatalf("%.2f bytes a value for 8 clients and 16 bits: %v", options[0].UpValue, err)
	}
	options, err = plan.Options(t.Context(), request(1<<20, 64, 16))
	if err != nil || options[0].UpValue > 3.25 {
		t.Fatalf("%.2f bytes a value for 64 clients and 16 bits: %v", options[0].UpValue, err)
	}
}

func TestWhatCannotBeDoneIsSaid(t *testing.T) {
	for _, x := range []struct {
		q    plan.Request
		text string
	}{
		{request(0, 8, 16), "1 to"},
		{request(10, 1, 16), "at least 2"},
		{request(10, 5000, 16), "choose 1 to 4096"},
		{request(10, 8, 40), "choose 4 to 30"},
		{request(1<<60, 8, 16), "1 to"},
		{shared(0, 8, 16, params.Lanes), "weight cap of 0"},
		{shared(-4, 8, 16, params.Lanes), "weight cap of -4"},
		{shared(255, 4096, 30, params.Lanes), "30 bits and 20 of headroom exceed a lane of 48: choose fewer bits, smaller weights or a smaller cohort"},
		{shared(1, 4096, 24, params.SlotsReal), "24 bits and 14 of slots-ci and 12 of headroom exceed a lane of 48: choose fewer bits, lanes or a smaller cohort"},
	} {
		if _, err := plan.Options(t.Context(), x.q); !errors.Is(err, errs.ErrParameters) || !strings.Contains(err.Error(), x.text) {
			t.Errorf("%+v: %v", x.q, err)
		}
	}
}

func TestCalibrationMeasures(t *testing.T) {
	for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
		q := request(3e6, 8, 16)
		q.Mode, q.Calibrate, q.WeightCap = mode, true, 10
		options, err := plan.Options(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range options {
			if !(o.EncryptSeconds > 0 && o.DecryptSeconds > 0) {
				t.Errorf("%+v", o)
			}
		}
	}
}
