package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
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
				return fmt.Errorf("--values is %v; an update has a whole number of them, 1 to %d: %w", values, int64(params.MaxValues), errs.ErrArgument)
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

// printPlan writes lines of at most 80 columns.
func printPlan(out io.Writer, options []plan.Option) error {
	o := options[0]
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "preset\tlanes\tΔ\tbytes/value up\tup\tdown\tencrypt\tdecrypt\t")
	for _, x := range options {
		encrypt, decrypt := "–", "–"
		if x.CalibratedUsing > 0 {
			encrypt, decrypt = seconds(x.EncryptSeconds), seconds(x.DecryptSeconds)
		}
		fmt.Fprintf(w, "%s\t%d\t2^%d\t%s\t%s\t%s\t%s\t%s\t\n", x.Preset, x.Lanes, x.DeltaBits, perValue(x.UpValue),
			size(float64(x.BytesUp)), size(float64(x.BytesDown)), encrypt, decrypt)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	// Aligned to the right, every line begins with the padding.
	for line := range strings.Lines(table.String()) {
		fmt.Fprint(out, line[2:])
	}
	plural := "s"
	if o.Values == 1 {
		plural = ""
	}
	fmt.Fprintf(out, "\n%s: %s, %d value%s of %d bits, up to %d clients\n", o.Preset, o.Mode, o.Values, plural, o.Bits, o.Clients)
	fmt.Fprintf(out, "  as float32  %s\n", size(4*float64(o.Values)))
	fmt.Fprintf(out, "  security    %d bits (%s)\n", o.SecurityBits, o.SecuritySource)
	// Rounded up: what is said holds.
	fmt.Fprintf(out, "  exactness   any of 2^40 coefficients exceeds its bound: probability ≤ 2^%.0f\n", math.Ceil(o.FailureLog2))
	fmt.Fprintf(out, "  precision   %.1e of a tensor's range a value, before weights\n", o.Step)
	if n := o.Privacy; n != nil {
		fmt.Fprintf(out, "  privacy     the clip norm has %d steps, the range is %.1f times it;\n", n.Steps, n.Range)
		fmt.Fprintf(out, "              a mean's noise is ±%.3g of it a value, of which\n", n.Mean)
		fmt.Fprintf(out, "              rounding costs %.1f %%; any value is cut: probability ≤ 2^%.0f\n", 100*(1-1/n.Inflation), math.Ceil(n.Failure))
	}
	return nil
}

// perValue is a number of bytes a value, of few digits.
func perValue(bytes float64) string {
	if bytes >= 1000 {
		return fmt.Sprintf("%.0f", bytes)
	}
	return fmt.Sprintf("%.2f", bytes)
}

// size is a number of bytes with three digits, in units of thousands.
func size(bytes float64) string {
	return scaled(bytes, "B", "kB", "MB", "GB", "TB")
}

// seconds is a duration with three digits.
func seconds(s float64) string {
	return scaled(s*1e6, "µs", "ms", "s")
}

// scaled is a number of three digits in the first unit, or the first greater
// one, that leaves it below 1000.
func scaled(x float64, units ...string) string {
	for x >= 999.5 && len(units) > 1 {
		x, units = x/1000, units[1:]
	}
	digits := 0
	if x < 99.95 && x != math.Trunc(x) {
		digits = 1
	}
	if x < 9.995 && x != math.Trunc(x) {
		digits = 2
	}
	return fmt.Sprintf("%.*f %s", digits, x, units[0])
}
