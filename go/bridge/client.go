//go:build cgo

package bridge

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/plan"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// connection is a connected client. It keeps the values of a contribution that
// was interrupted after its deposit, since the client may read them again.
type connection struct {
	*client.Client
	mu   sync.Mutex
	kept *arrowio.Float32
}

func (c *connection) close() {
	_ = c.Close()
	c.keep(nil)
}

// keep takes over values, or nil, in the place of those it kept.
func (c *connection) keep(values *arrowio.Float32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept != nil {
		c.kept.Release()
	}
	c.kept = values
}

// takeKept hands the kept values on.
func (c *connection) takeKept() *arrowio.Float32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	values := c.kept
	c.kept = nil
	return values
}

// pending is a contribution that waits for its round, and the update that it
// was made of. What its round gave is kept until it is closed: a caller that
// is interrupted before it has the mean collects again.
type pending struct {
	mu     sync.Mutex
	c      *client.Contribution
	values *arrowio.Float32
	mean   *arrowio.Float32
	report *client.Report
}

func (p *pending) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.values != nil {
		p.values.Release()
		p.values = nil
	}
	if p.mean != nil {
		p.mean.Release()
		p.mean = nil
	}
}

// request is what any operation may need.
type request struct {
	Profile      string              `json:"profile"`
	Environment  map[string]string   `json:"environment"`
	Task         string              `json:"task"`
	Threads      int64               `json:"threads"`
	Client       int64               `json:"client"`
	Contribution int64               `json:"contribution"`
	Examples     int64               `json:"examples"`
	Metrics      map[string]float64  `json:"metrics"`
	Create       *client.TaskRequest `json:"create"`
	Reason       string              `json:"reason"`
	Plan         *planning           `json:"plan"`
	Position     *client.Position    `json:"position"`
}

// planning is a request for parameters.
type planning struct {
	Values    int64  `json:"values"`
	Clients   int    `json:"clients"`
	Bits      int    `json:"bits"`
	Mode      string `json:"mode"`
	Rounding  string `json:"rounding"`
	Encoding  string `json:"encoding"`
	WeightCap int    `json:"weight_cap"`
	Calibrate bool   `json:"calibrate"`
	// Of a private task.
	Privacy   *client.PrivacySpec `json:"privacy"`
	MinCohort int                 `json:"min_cohort"`
}

// load reads the request's profile with Python's environment.
func (q *request) load() (*config.Profile, error) {
	return config.LoadProfileFrom(q.Profile, func(name string) (string, bool) {
		v, ok := q.Environment[name]
		return v, ok
	})
}

func parse(text string) (*request, error) {
	q := &request{}
	if err := decode("request", text, q); err != nil {
		return nil, err
	}
	return q, nil
}

// Start begins an operation that takes no array: connect, model, collect,
// audit, list, abort, plan, position, ready, resume. It returns the operation's handle.
func Start(kind, text string) (int64, error) {
	return guard(func() (int64, error) {
		q, err := parse(text)
		if err != nil {
			return 0, err
		}
		work := map[string]func(context.Context, *op) (any, error){
			"connect": q.connect, "model": q.model, "collect": q.collect,
			"audit": q.audit, "list": q.list, "abort": q.abort, "plan": q.options,
			"position": q.position, "resume": q.resume, "ready": q.ready,
		}[kind]
		if work == nil {
			return 0, fmt.Errorf("no operation %q: %w", kind, errs.ErrArgument)
		}
		return begin(work), nil
	})
}

// StartWith begins an operation on a float32 array: contribute, create, holds. The
// array is read in place until the operation's result is closed.
func StartWith(kind, text string, inArr, inSch uintptr) (int64, error) {
	return guard(func() (int64, error) {
		q, err := parse(text)
		if err != nil {
			return 0, err
		}
		in, err := arrowio.ImportFloat32(inArr, inSch)
		if err != nil {
			return 0, err
		}
		switch kind {
		case "contribute":
			return begin(func(ctx context.Context, o *op) (any, error) { return q.contribute(ctx, o, in) }), nil
		case "create":
			return begin(func(ctx context.Context, _ *op) (any, error) { return q.create(ctx, in) }), nil
		case "holds":
			return begin(func(context.Context, *op) (any, error) { return q.holds(in) }), nil
		}
		in.Release()
		return 0, fmt.Errorf("no operation %q: %w", kind, errs.ErrArgument)
	})
}

func (q *request) connect(ctx context.Context, _ *op) (any, error) {
	p, err := q.load()
	if err != nil {
		return nil, err
	}
	x, err := client.Dial(ctx, p, q.Task, threads(q.Threads))
	if err != nil {
		return nil, err
	}
	described, err := x.Describe()
	if err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return map[string]any{"client": store(&connection{Client: x}), "task": json.RawMessage(described)}, nil
}

func (q *request) model(ctx context.Context, o *op) (any, error) {
	x, err := lookup[*connection](q.Client)
	if err != nil {
		return nil, err
	}
	array, values := arrowio.NewFloat32(int(x.Task().Layout.Values()))
	found, err := x.InitialModel(ctx, values)
	if err != nil || !found {
		array.Release()
		return found, err
	}
	o.mu.Lock()
	o.array = array
	o.mu.Unlock()
	return true, nil
}

// holds compares a model with the task's first.
func (q *request) holds(in *arrowio.Float32) (any, error) {
	defer in.Release()
	x, err := lookup[*connection](q.Client)
	if err != nil {
		return nil, err
	}
	return nil, x.HoldsInitialModel(in.Float32Values())
}

func (q *request) contribute(ctx context.Context, o *op, in *arrowio.Float32) (any, error) {
	x, err := lookup[*connection](q.Client)
	if err != nil {
		in.Release()
		return nil, err
	}
	u := client.Update{Values: in.Float32Values(), Examples: q.Examples, Metrics: q.Metrics}
	c, resumed, err := x.Give(ctx, u, o.report)
	switch {
	case err != nil && x.Reads(u.Values):
		x.keep(in)
		return nil, err
	case err != nil:
		in.Release()
		return nil, err
	}
	p := &pending{c: c, values: in}
	if kept := x.takeKept(); resumed && kept != nil {
		p.values = kept
		in.Release()
	} else if kept != nil {
		kept.Release()
	}
	return map[string]any{"contribution": store(p), "round": p.c.Round.Spec.Step, "resumed": resumed}, nil
}

func (q *request) collect(ctx context.Context, o *op) (any, error) {
	x, err := lookup[*connection](q.Client)
	if err != nil {
		return nil, err
	}
	p, err := lookup[*pending](q.Contribution)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.values == nil {
		return nil, fmt.Errorf("the contribution is closed: %w", errs.ErrBadHandle)
	}
	if p.mean == nil {
		array, out := arrowio.NewFloat32(int(x.Task().Layout.Values()))
		report, err := x.Collect(ctx, p.c, out, o.report)
		if err != nil {
			array.Release()
			return nil, err
		}
		p.mean, p.report = array, report
	}
	p.mean.Retain()
	o.mu.Lock()
	o.array = p.mean
	o.mu.Unlock()
	return p.report, nil
}

func (q *request) ready(ctx context.Context, _ *op) (any, error) {
	x, err := lookup[*connection](q.Client)
	if err != nil {
		return nil, err
	}
	return true, x.Joinable(ctx)
}

func (q *request) position(context.Context, *op) (any, error) {
	x, err := lookup[*connection](q.Client)
	if err != nil {
		return nil, err
	}
	return x.Position(), nil
}

func (q *request) resume(context.Context, *op) (any, error) {
	x, err := lookup[*connection](q.Client)
	if err != nil {
		return nil, err
	}
	if q.Position == nil {
		return nil, fmt.Errorf("position is missing: %w", errs.ErrArgument)
	}
	return nil, x.Resume(*q.Position)
}

// withAdmin runs f with the admin of the request's profile.
func (q *request) withAdmin(f func(*client.Admin) (any, error)) (any, error) {
	p, err := q.load()
	if err != nil {
		return nil, err
	}
	a, err := client.AdminOf(p)
	if err != nil {
		return nil, err
	}
	out, err := f(a)
	return out, errors.Join(err, a.Close())
}

func (q *request) create(ctx context.Context, in *arrowio.Float32) (any, error) {
	defer in.Release()
	if q.Create == nil {
		return nil, fmt.Errorf("create is missing: %w", errs.ErrArgument)
	}
	return q.withAdmin(func(a *client.Admin) (any, error) {
		t, err := a.CreateTask(ctx, *q.Create, in.Float32Values())
		if err != nil {
			return nil, err
		}
		return map[string]any{"task": t.Name, "digest": task.DigestOf(t).String(), "preset": t.Preset, "mode": t.Mode.String(), "bits": t.Bits}, nil
	})
}

func (q *request) audit(ctx context.Context, _ *op) (any, error) {
	return q.withAdmin(func(a *client.Admin) (any, error) {
		l, err := a.Audit(ctx)
		if err != nil {
			return nil, err
		}
		return map[string]any{
			"name": l.Name, "key": l.Key.String(), "checkpoint": l.Checkpoint, "entries": len(l.Records),
			"records": json.RawMessage("[" + string(bytes.Join(l.Records, []byte(","))) + "]"),
		}, nil
	})
}

func (q *request) list(ctx context.Context, _ *op) (any, error) {
	return q.withAdmin(func(a *client.Admin) (any, error) {
		reply, err := a.Rounds.ListTasks(ctx, &pb.Empty{})
		if err != nil {
			return nil, rpc.FromStatus(err, "aggregator")
		}
		out := []map[string]any{}
		for _, s := range reply.Tasks {
			t, err := task.ParseTask(s.Task.GetObject())
			if err != nil {
				return nil, err
			}
			out = append(out, standing(t, s))
		}
		return out, nil
	})
}

func (q *request) abort(ctx context.Context, _ *op) (any, error) {
	return q.withAdmin(func(a *client.Admin) (any, error) {
		s, err := a.Rounds.AbortTask(ctx, &pb.AbortRequest{Name: q.Task, Reason: q.Reason})
		if err != nil {
			return nil, rpc.FromStatus(err, "aggregator")
		}
		t, err := task.ParseTask(s.Task.GetObject())
		if err != nil {
			return nil, err
		}
		return standing(t, s), nil
	})
}

func (q *request) options(ctx context.Context, _ *op) (any, error) {
	if q.Plan == nil {
		return nil, fmt.Errorf("plan is missing: %w", errs.ErrArgument)
	}
	mode, err := params.ParseMode(q.Plan.Mode)
	if err != nil {
		return nil, err
	}
	rounding, err := params.ParseRounding(q.Plan.Rounding)
	if err != nil {
		return nil, err
	}
	encoding, err := params.ParseEncoding(cmp.Or(q.Plan.Encoding, params.Lanes.String()))
	if err != nil {
		return nil, err
	}
	return plan.Options(ctx, plan.Request{
		Encoding: encoding, Privacy: q.Plan.Privacy.Promise(), MinCohort: q.Plan.MinCohort,
		Values: q.Plan.Values, Clients: q.Plan.Clients, Bits: q.Plan.Bits, Mode: mode, Rounding: rounding,
		WeightCap: q.Plan.WeightCap, Threads: threads(q.Threads), Calibrate: q.Plan.Calibrate,
	})
}

func standing(t *task.Task, s *pb.TaskStatus) map[string]any {
	return map[string]any{
		"task": t.Name, "published": s.Published, "rounds": t.Rounds, "ended": s.Ended, "round": s.Round.GetRound(),
		"state": s.Round.GetState().String(), "committed": s.Round.GetCommitted(), "members": len(t.Members),
	}
}
