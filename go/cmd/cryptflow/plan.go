package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/plan"
	"github.com/cryptflow/cryptflow/go/privacy"
)

func planCommand() *cobra.Command {
	var values float64
	var mode, rounding, encoding string
	var machine, quick bool
	q := plan.Request{}
	private := privacy.Promise{Clip: 1, Delta: 1e-5}
	c := &cobra.Command{
		Use: "plan", Short: "Choose parameters: bytes, guarantees, and seconds on this machine", Args: cobra.NoArgs,
		Example: "  cryptflow plan --values 25e6 --clients 64 --bits 16",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if !(values >= 1 && values <= params.MaxValues) || values != math.Trunc(values) {
				return fmt.Errorf("--values is %v; an update has 1 to %d: %w", values, int64(params.MaxValues), errs.ErrArgument)
			}
			q.Values, q.Calibrate = int64(values), !quick
			if q.Mode, err = params.ParseMode(mode); err != nil {
				return err
			}
			if q.Rounding, err = params.ParseRounding(rounding); err != nil {
				return err
			}
			if q.Encoding, err = params.ParseEncoding(encoding); err != nil {
				return err
			}
			if q.Threads == 0 {
				q.Threads = runtime.GOMAXPROCS(0)
			}
			if q.MinCohort == 0 {
				q.MinCohort = min(3, q.Clients)
			}
			if private.Multiplier != 0 {
				q.Privacy = &private
			}
			ctx, cancel := untilSignal(c)
			defer cancel()
			options, err := plan.Options(ctx, q)
			if err != nil {
				return err
			}
			if machine {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(struct {
					plan.Option
					RunnersUp []plan.Option `json:"runners_up"`
				}{options[0], options[1:]})
			}
			return printPlan(c.OutOrStdout(), options)
		},
	}
	f := c.Flags()
	f.Float64Var(&values, "values", 0, "values of an update, 25e6 for instance")
	f.IntVar(&q.Clients, "clients", 3, "largest cohort")
	f.IntVar(&q.Bits, "bits", 16, "bits of a value, 4 to 30")
	f.StringVar(&mode, "mode", "sum-key", "sum-key or shared-key")
	f.StringVar(&rounding, "rounding", "stochastic", "stochastic or nearest")
	f.StringVar(&encoding, "encoding", "lanes", "lanes, slots or slots-ci")
	f.IntVar(&q.WeightCap, "weight-cap", 1000, "shared-key: largest num_examples of a client")
	f.Float64Var(&private.Multiplier, "noise-multiplier", 0, "differential privacy: noise of the sum over the clip norm")
	f.Uint32Var(&private.Colluding, "colluding", 1, "differential privacy: clients of a cohort whose noise is not counted on")
	f.IntVar(&q.MinCohort, "min-cohort", 0, "differential privacy: smallest cohort (default: 3)")
	f.IntVar(&q.Threads, "threads", 0, "threads to estimate for (default: all cores)")
	f.BoolVar(&quick, "no-calibration", false, "do not measure this machine")
	f.BoolVar(&machine, "json", false, "print JSON")
	if err := c.MarkFlagRequired("values"); err != nil {
		panic(err)
	}
	return c
}

func printPlan(out io.Writer, options []plan.Option) error {
	o := options[0]
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "preset\tlanes\tΔ\tbytes/value up\tdown\tMB up\tMB down\tencrypt\tdecrypt\t")
	for _, x := range options {
		encrypt, decrypt := "–", "–"
		if x.CalibratedUsing > 0 {
			encrypt, decrypt = fmt.Sprintf("%.3g s", x.EncryptSeconds), fmt.Sprintf("%.3g s", x.DecryptSeconds)
		}
		fmt.Fprintf(w, "%s\t%d\t2^%d\t%.2f\t%.2f\t%.3g\t%.3g\t%s\t%s\t\n", x.Preset, x.Lanes, x.DeltaBits, x.UpValue, x.DownValue, float64(x.BytesUp)/1e6, float64(x.BytesDown)/1e6, encrypt, decrypt)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s: %s, %d values of %d bits from %d clients (float32: %.3g MB)\n", o.Preset, o.Mode, o.Values, o.Bits, o.Clients, 4*float64(o.Values)/1e6)
	fmt.Fprintf(out, "  security    %d bits (%s)\n", o.SecurityBits, o.SecuritySource)
	fmt.Fprintf(out, "  exactness   any of 2^40 coefficients exceeds its bound with probability 2^%.0f at most\n", o.FailureLog2)
	fmt.Fprintf(out, "  precision   %.1e of a tensor's range a value, before weights\n", o.Step)
	if n := o.Privacy; n != nil {
		fmt.Fprintf(out, "  privacy     the clip norm has %d steps and the range is %.1f times it; a mean's noise is ±%.3g of it a value;\n", n.Steps, n.Range, n.Mean)
		fmt.Fprintf(out, "              rounding costs %.1f %% of that noise; any value is cut with probability 2^%.0f at most\n", 100*(1-1/n.Inflation), n.Failure)
	}
	return nil
}
