package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// admin opens the connections that a profile names.
func admin(profile string) (*client.Admin, error) {
	p, err := config.LoadProfile(profile)
	if err != nil {
		return nil, err
	}
	return client.AdminOf(p)
}

// withAdmin runs f with a connected admin.
func withAdmin(c *cobra.Command, profile string, f func(context.Context, *client.Admin) error) error {
	a, err := admin(profile)
	if err != nil {
		return err
	}
	ctx, cancel := untilSignal(c)
	defer cancel()
	return errors.Join(f(ctx, a), a.Close())
}

func taskCommand() *cobra.Command {
	var profile string
	t := &cobra.Command{Use: "task", Short: "Create, list, show, watch and abort tasks"}
	t.PersistentFlags().StringVar(&profile, "profile", "", "profile of an admin (default: CRYPTFLOW_PROFILE)")
	list := &cobra.Command{
		Use: "list", Short: "List every task", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return withAdmin(c, profile, func(ctx context.Context, a *client.Admin) error {
				reply, err := a.Rounds.ListTasks(ctx, &pb.Empty{})
				if err != nil {
					return rpc.FromStatus(err, "aggregator")
				}
				return printTasks(c.OutOrStdout(), reply.Tasks)
			})
		},
	}
	show := &cobra.Command{
		Use: "show NAME", Short: "Show a task as it was signed, and how it stands", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withAdmin(c, profile, func(ctx context.Context, a *client.Admin) error {
				reply, err := a.Rounds.GetTask(ctx, &pb.TaskName{Name: args[0]})
				if err != nil {
					return rpc.FromStatus(err, "aggregator")
				}
				return printTask(c.OutOrStdout(), reply)
			})
		},
	}
	watch := &cobra.Command{
		Use: "watch NAME", Short: "Follow a task's rounds until it ends", Args: cobra.ExactArgs(1),
		Long: "Follows a task's rounds until it ends, a line for every change. The services count every\nround, also the small ones in which the cohort agrees on ranges: with negotiated ranges an\nupdate takes two.",
		RunE: func(c *cobra.Command, args []string) error {
			return withAdmin(c, profile, func(ctx context.Context, a *client.Admin) error {
				return follow(ctx, c.OutOrStdout(), a, args[0])
			})
		},
	}
	var reason string
	abort := &cobra.Command{
		Use: "abort NAME", Short: "End a task; its open round is given up unless it was released", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withAdmin(c, profile, func(ctx context.Context, a *client.Admin) error {
				reply, err := a.Rounds.AbortTask(ctx, &pb.AbortRequest{Name: args[0], Reason: reason})
				if err != nil {
					return rpc.FromStatus(err, "aggregator")
				}
				fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", args[0], reply.Ended)
				return nil
			})
		},
	}
	abort.Flags().StringVar(&reason, "reason", "", "why, for clients and the log")
	t.AddCommand(taskCreate(&profile), list, show, watch, abort)
	return t
}

func taskCreate(profile *string) *cobra.Command {
	var q client.TaskRequest
	var layout, model string
	var members []string
	var fraction float64
	var private client.PrivacySpec
	var colluding uint32
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a task from a layout and a first model", Args: cobra.ExactArgs(1),
		Long: "Creates a task. The layout is a JSON list of {\"name\", \"shape\"}, with {\"range\"} for fixed\n" +
			"ranges, {\"precise\": true} for values that span magnitudes and {\"nonnegative\": true} for\n" +
			"what never becomes negative; the first model is a file of little-endian float32 values in\n" +
			"layout order (zeros when left out). From Python, cryptflow.create_task takes both from a model.",
		Example: "  cryptflow task create digits --profile admin.toml --layout layout.json \\\n    --model model.f32 --member client-0 --member client-1 --member client-2",
		RunE: func(c *cobra.Command, args []string) error {
			q.Name = args[0]
			raw, err := os.ReadFile(layout)
			if err != nil {
				return fmt.Errorf("--layout: %v: %w", err, errs.ErrArgument)
			}
			d := json.NewDecoder(strings.NewReader(string(raw)))
			d.DisallowUnknownFields()
			if err := d.Decode(&q.Layout); err != nil {
				return fmt.Errorf("--layout: %s is not a list like [{\"name\": \"weight\", \"shape\": [8]}] (%v): %w", layout, err, errs.ErrArgument)
			}
			for _, m := range members {
				name, organisation, _ := strings.Cut(m, "@")
				q.Members = append(q.Members, client.MemberSpec{Name: name, Organisation: organisation})
			}
			if c.Flags().Changed("fraction") {
				q.Fraction = &fraction
			}
			if asked := c.Flags().Changed; asked("clip-norm") || asked("noise-multiplier") || asked("delta") {
				private.Colluding, q.Privacy = &colluding, &private
				if !asked("rounding") {
					q.Rounding = ""
				}
				if !asked("weight-cap") {
					q.WeightCap = 0
				}
			}
			values, err := client.ReadModel(model, q.Layout)
			if err != nil {
				return err
			}
			return withAdmin(c, *profile, func(ctx context.Context, a *client.Admin) error {
				t, err := a.CreateTask(ctx, q, values)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "task %s %s\n  %d values in %s, %s, %s, %d bits, %d to %d of %d clients, %d rounds\n", t.Name, task.DigestOf(t).Short(),
					t.Layout.Values(), tensors(t), t.Mode, t.Preset, t.Bits, t.MinCohort, t.MaxClients, len(t.Members), t.Rounds)
				fmt.Fprintf(c.OutOrStdout(), "  %s\n", client.Protects(t))
				if t.Privacy != nil {
					fmt.Fprintf(c.OutOrStdout(), "  private: %s\n", promised(t))
				}
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringVar(&layout, "layout", "layout.json", "JSON list of tensors")
	f.StringVar(&model, "model", "", "file of float32 values")
	f.StringVar(&q.InitialModel, "initial-model", "stored", "who keeps the first model: stored, at the aggregator, or clients, each of which brings it")
	f.StringArrayVar(&members, "member", nil, "enrolled client, NAME or NAME@ORGANISATION; repeat")
	f.StringVar(&q.Mode, "mode", "sum-key", "sum-key or shared-key")
	f.StringVar(&q.Preset, "preset", "", "parameters (default: the fewest bytes)")
	f.Uint32Var(&q.Bits, "bits", 16, "bits of a value")
	f.StringVar(&q.Rounding, "rounding", "stochastic", "stochastic or nearest")
	f.StringVar(&q.Encoding, "encoding", "lanes", "lanes, or the slots of classic CKKS: slots or slots-ci")
	f.StringVar(&q.Ranges, "ranges", "", "negotiated, adaptive or fixed (default: fixed if the layout has ranges, else negotiated)")
	f.StringArrayVar(&q.Metrics, "metric", nil, "scalar that clients may report; repeat (default: loss)")
	f.Uint32Var(&q.WeightCap, "weight-cap", 1000, "largest num_examples of a client")
	f.Uint32Var(&q.MaxClients, "max-clients", 0, "largest cohort (default: all members)")
	f.Uint32Var(&q.Trim, "trim", 0, "agreed ranges: ignore so many of the largest claims, whose clients clip")
	f.Uint32Var(&q.MinCohort, "min-cohort", 0, "smallest cohort (default: half of the members, and the key service's floor at least)")
	f.Float64Var(&fraction, "fraction", 0.8, "least fraction of the clients that announced themselves; one may always be missing unless it is 1")
	f.Uint32Var(&q.PerOrganisation, "per-organisation", 0, "most clients of one organisation in a cohort; 0: no cap")
	f.Uint32Var(&q.Deadline, "deadline", 600, "seconds from a round's first commit")
	f.Uint32Var(&q.Rounds, "rounds", 10, "rounds to publish")
	f.Float64Var(&private.ClipNorm, "clip-norm", 0, "differential privacy: largest L2 norm of an update")
	f.Float64Var(&private.NoiseMultiplier, "noise-multiplier", 0, "differential privacy: noise of the sum over the clip norm")
	f.Float64Var(&private.Delta, "delta", 0, "differential privacy: delta of the reported epsilon")
	f.Uint32Var(&colluding, "colluding", 1, "differential privacy: clients of a cohort whose noise is not counted on")
	return c
}

// tensors counts those of a task in words.
func tensors(t *task.Task) string {
	precise, positive := 0, 0
	for _, x := range t.Layout {
		if x.Precise {
			precise++
		}
		if x.NonNegative {
			positive++
		}
	}
	text := fmt.Sprintf("%d tensors", len(t.Layout))
	if len(t.Layout) == 1 {
		text = "1 tensor"
	}
	if precise+positive > 0 {
		text += fmt.Sprintf(" (%d precise, %d non-negative)", precise, positive)
	}
	return text
}

// promised says what a task's privacy is.
func promised(t *task.Task) string {
	p := t.Privacy
	return fmt.Sprintf("clip norm %g, noise multiplier %g, delta %g, against %d colluding; noise of a mean ± %.3g", p.Clip, p.Multiplier, p.Delta, p.Colluding, p.Noise(t.MinCohort)/float64(t.MinCohort))
}

// firstModel says where a task's first model is.
func firstModel(s *pb.TaskStatus) string {
	switch {
	case s.HasModel:
		return "stored"
	case client.WaitsForModel(s):
		return "missing"
	}
	return "with the clients"
}

func standing(s *pb.TaskStatus) string {
	if client.WaitsForModel(s) {
		return "waiting for its first model: create it again, with the same request, to go on"
	}
	if s.Ended != "" && task.State(s.Round.State).Final() || s.Ended != "" && s.Round.State == pb.RoundState_PUBLISHED {
		return "ended: " + s.Ended
	}
	return fmt.Sprintf("round %d %s %d/%d", s.Round.Round, s.Round.State, s.Round.Committed, s.Round.Enrolled)
}

func printTasks(out io.Writer, tasks []*pb.TaskStatus) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TASK\tMODE\tPRESET\tBITS\tVALUES\tCLIENTS\tROUNDS\tNOW")
	for _, s := range tasks {
		t, err := task.ParseTask(s.Task.GetObject())
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d/%d\t%s\n", t.Name, t.Mode, t.Preset, t.Bits, t.Layout.Values(), len(t.Members), s.Published, t.Rounds, standing(s))
	}
	return w.Flush()
}

// mayMiss says how many willing clients a set may leave out.
func mayMiss(t *task.Task) string {
	if t.Permille >= 1000 {
		return "none"
	}
	return fmt.Sprintf("%.4g %%, or one,", float64(1000-t.Permille)/10)
}

func printTask(out io.Writer, s *pb.TaskStatus) error {
	t, err := task.ParseTask(s.Task.GetObject())
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("task", "%s", t.Name)
	row("digest", "%s", task.DigestOf(t))
	row("parameters", "%s, %s, %d bits in %s, %s rounding, %s ranges", t.Mode, t.Preset, t.Bits, t.Encoding, t.Rounding, t.Ranges)
	row("metrics", "%s", strings.Join(t.Metrics, " "))
	row("model", "%d values in %s, first model %s", t.Layout.Values(), tensors(t), firstModel(s))
	row("cohort", "%d to %d of %d clients; of those who announced, %s may be missing",
		t.MinCohort, t.MaxClients, len(t.Members), mayMiss(t))
	row("protects", "%s", client.Protects(t))
	row("weight cap", "%d", t.WeightCap)
	if t.Canaries > 0 {
		row("canaries", "%d in each contribution, by which the key service refuses by name what is not under its deposited key", t.Canaries)
	}
	if t.Privacy != nil {
		row("privacy", "%s", promised(t))
	}
	row("deadline", "%v after a round's first commit", time.Duration(t.Deadline)*time.Second)
	row("rounds", "%d of %d published", s.Published, t.Rounds)
	row("now", "%s", standing(s))
	if s.Round.Reason != "" && !client.WaitsForModel(s) {
		row("reason", "%s", s.Round.Reason)
	}
	if len(s.Round.Missing) > 0 {
		row("missing", "%s announced and did not commit", strings.Join(s.Round.Missing, " "))
	}
	if len(s.Round.Refused) > 0 {
		row("refused", "%s committed and was left out: not under its deposited key, or damaged; the key service's audit log says which",
			strings.Join(s.Round.Refused, " "))
	}
	if s.Round.Failed != "" {
		row("failed", "round %d: %s", s.Round.Round, s.Round.Failed)
	}
	row("aggregator key", "%s", t.Aggregator)
	row("kms key", "%s", t.KMS)
	names := make([]string, len(t.Members))
	for i, m := range t.Members {
		names[i] = m.Name
	}
	row("members", "%s", strings.Join(names, " "))
	return w.Flush()
}

// follow prints a line for every change.
func follow(ctx context.Context, out io.Writer, a *client.Admin, name string) error {
	stream, err := a.Rounds.Watch(ctx, &pb.TaskName{Name: name})
	if err != nil {
		return rpc.FromStatus(err, "aggregator")
	}
	last := ""
	for {
		s, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return nil
		case err != nil:
			return rpc.FromStatus(err, "aggregator")
		}
		line := standing(s)
		if s.Round.Reason != "" && !client.WaitsForModel(s) {
			line += ": " + s.Round.Reason
		}
		if line != last {
			fmt.Fprintf(out, "%s  %s\n", time.Now().Format(time.TimeOnly), line)
			last = line
		}
		if strings.HasPrefix(line, "ended") {
			return nil
		}
	}
}

func doctorCommand() *cobra.Command {
	var profile string
	c := &cobra.Command{
		Use: "doctor", Short: "Say what is wrong with a profile, an endpoint, the clock or a certificate", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := untilSignal(c)
			defer cancel()
			return doctor(ctx, c.OutOrStdout(), profile)
		},
	}
	c.Flags().StringVar(&profile, "profile", "", "profile of a client or an admin (default: CRYPTFLOW_PROFILE)")
	return c
}

// maxSkew is how far clocks may differ before certificates are at risk.
const maxSkew = time.Minute

// doctor checks one thing after the other and says what to do about each.
func doctor(ctx context.Context, out io.Writer, profile string) error {
	bad := 0
	say := func(what string, err error, good string) bool {
		if err != nil {
			bad++
			fmt.Fprintf(out, "✗ %-12s %v\n", what, err)
			return false
		}
		fmt.Fprintf(out, "✓ %-12s %s\n", what, good)
		return true
	}
	end := func() error {
		if bad > 0 {
			return fmt.Errorf("%d of the checks failed: %w", bad, errs.ErrConfig)
		}
		return nil
	}
	p, err := config.LoadProfile(profile)
	if !say("profile", err, "read") {
		return end()
	}
	creds, err := p.Credentials.Load(time.Now())
	if !say("certificate", err, "valid") {
		return end()
	}
	warning := creds.Warning(time.Now())
	if warning != "" {
		fmt.Fprintf(out, "! %-12s %s\n", "expiry", warning)
	} else {
		fmt.Fprintf(out, "✓ %-12s %s, until %s\n", "identity", creds.Self, creds.Expires.Format(time.DateOnly))
	}
	a, err := client.NewAdmin(p.Aggregator, p.KMS, creds, nil)
	if !say("addresses", err, p.Aggregator+" and "+p.KMS) {
		return end()
	}
	defer a.Close()
	for _, s := range []struct {
		name string
		info func(context.Context) (*pb.ServiceInfo, error)
	}{
		{"aggregator", func(ctx context.Context) (*pb.ServiceInfo, error) { return a.Rounds.Info(ctx, &pb.Empty{}) }},
		{"key service", func(ctx context.Context) (*pb.ServiceInfo, error) { return a.Keys.Info(ctx, &pb.Empty{}) }},
	} {
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		info, err := s.info(limited)
		cancel()
		if !say(s.name, rpc.FromStatus(err, s.name), "answers, version "+info.GetVersion()) {
			continue
		}
		if skew := client.Skew(info, time.Now()); skew > maxSkew || skew < -maxSkew {
			say("clock", fmt.Errorf("the %s's clock is %v from this machine's; set one of them right: %w", s.name, skew.Round(time.Second), errs.ErrConfig), "")
		}
	}
	if creds.Self.Role == identity.Client && p.Task != "" && bad == 0 {
		x, err := client.Dial(ctx, p, "", 1)
		if !say("task", advised(err), p.Task+" is signed by the trusted admin and enrols "+creds.Self.Name) {
			return end()
		}
		if err := x.Close(); err != nil {
			return err
		}
	}
	if p.SigningKey != "" {
		say("signing key", signs(p), "the private half of admin_key")
	}
	return end()
}

// advised adds whom to ask to an error about a client's task.
func advised(err error) error {
	switch {
	case errors.Is(err, errs.ErrNoTask):
		return fmt.Errorf("%w; set task to a name that the admin's \"cryptflow task list\" shows", err)
	case errors.Is(err, errs.ErrNotEnrolled):
		return fmt.Errorf("%w; members are fixed when the admin creates a task: take part in the next", err)
	case errors.Is(err, errs.ErrSignature):
		return fmt.Errorf("%w; admin_key must be the 64 digits that the admin gave you", err)
	}
	return err
}

// signs says whether an admin's key is the one that its profile trusts.
func signs(p *config.Profile) error {
	key, err := identity.OpenSigning(p.SigningKey, false)
	if err != nil {
		return err
	}
	if name := identity.SigningName(key); name != p.AdminKey {
		return fmt.Errorf("the public half of %s is %s, and admin_key is %q; clients and services must have the one that signs: %w", p.SigningKey, name, p.AdminKey, errs.ErrConfig)
	}
	return nil
}
