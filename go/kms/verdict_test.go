package kms_test

import (
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// published is a desk whose first round was released to four clients and has a
// result.
func published(t *testing.T) (d *desk, spec task.Digest, gifts []*gift, result *task.Result) {
	t.Helper()
	d = newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	gifts = d.gifts(s, "a", "b", "c", "d")
	if _, err := d.ask(manifest(gifts)); err != nil {
		t.Fatal(err)
	}
	spec = task.DigestOf(s)
	result = &task.Result{Spec: spec, Manifest: task.DigestOf(manifest(gifts)), Root: task.Digest{4}, Frames: 2, Terms: 4}
	if _, err := d.CloseRound(as(identity.Aggregator, "sum"), pbSigned(task.Sign(result, d.aggregator))); err != nil {
		t.Fatal(err)
	}
	return d, spec, gifts, result
}

func (d *desk) tryRound(n uint32, model task.Digest) error {
	_, err := d.OpenRound(as(identity.Aggregator, "sum"), d.toOpen(n, model, d.aggregator))
	return err
}

func (d *desk) verdict(spec task.Digest) *task.Verdict {
	d.t.Helper()
	reply, err := d.GetDecision(as(identity.Aggregator, "sum"), &pb.SpecId{Spec: spec[:]})
	if err != nil {
		d.t.Fatal(err)
	}
	if reply.Verdict == nil {
		return nil
	}
	v, err := task.ParseVerdict(reply.Verdict.Object)
	if err != nil {
		d.t.Fatal(err)
	}
	return v
}

// TestAVerdictThatTimeBringsStands although the request that waited for it is
// refused: the aggregator then finds why, and goes on from the model of before.
func TestAVerdictThatTimeBringsStands(t *testing.T) {
	d, spec, gifts, result := published(t)
	d.reports(gifts[:2], nil, task.NotOpened)
	d.now = d.now.Add(time.Minute)
	next := task.NextModel(d.task.InitialModel, spec, task.DigestOf(result))
	want(t, "the model of a sum that did not open", d.tryRound(1, next), errs.ErrFailed)
	if v := d.verdict(spec); v == nil || v.Opening != task.NotOpened || v.Agree != 2 {
		t.Fatalf("the verdict is %v", v)
	}
	if s := d.round(1, d.task.InitialModel); s.Failed != 1 || s.Step != 0 {
		t.Fatalf("%+v", s)
	}
	if e := d.events(); e[audit.Failed] != 1 {
		t.Fatalf("%v", e)
	}
}

// TestTheFirstToReportSpeaksForNobodyElse: a client that reports at once, with a
// result or sums of its own invention, could otherwise end the task.
func TestTheFirstToReportSpeaksForNobodyElse(t *testing.T) {
	for name, invent := range map[string]func(*task.Report){
		"another result": func(r *task.Report) { r.Result = task.Digest{1} },
		"other sums":     func(r *task.Report) { r.Sums = task.Digest{1} },
	} {
		t.Run(name, func(t *testing.T) {
			d, spec, gifts, result := published(t)
			r := &task.Report{Spec: spec, Client: "a", Opening: task.Opened, Result: task.DigestOf(result), Sums: task.Digest{9}}
			invent(r)
			if _, err := d.report(r, "a"); err != nil {
				t.Fatal(err)
			}
			d.now = d.now.Add(time.Minute)
			d.round(1, task.NextModel(d.task.InitialModel, spec, task.DigestOf(result)))
			if v := d.verdict(spec); v != nil {
				t.Fatalf("one of four speaks for all: %v", v)
			}
			d.reports(gifts[1:], result, task.Opened)
			if v := d.verdict(spec); v == nil || v.Opening != task.Opened || v.Agree != 3 || v.Result != task.DigestOf(result) {
				t.Fatalf("the verdict of the others is %v", v)
			}
		})
	}
}

// TestNoVerdictComesTooLate: once the next round was opened from a result, no
// report takes the model back at some clients.
func TestNoVerdictComesTooLate(t *testing.T) {
	d, spec, gifts, result := published(t)
	d.now = d.now.Add(time.Minute)
	d.round(1, task.NextModel(d.task.InitialModel, spec, task.DigestOf(result)))
	d.reports(gifts, nil, task.NotOpened)
	if v := d.verdict(spec); v != nil {
		t.Fatalf("a round that others go on from failed: %v", v)
	}
}

// TestAnEvenCohortIsJudged when all of it has reported: their reports are then
// dropped, so that nothing could be judged later.
func TestAnEvenCohortIsJudged(t *testing.T) {
	d, spec, gifts, result := published(t)
	d.reports(gifts[:2], result, task.Opened)
	d.reports(gifts[2:], nil, task.NotOpened)
	if v := d.verdict(spec); v == nil || v.Opening != task.NotOpened || v.Agree != 2 {
		t.Fatalf("the verdict is %v", v)
	}
	d.round(1, d.task.InitialModel)
}
