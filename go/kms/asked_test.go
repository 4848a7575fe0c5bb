package kms_test

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// toOpen is a request to open a round, signed with a key.
func (d *desk) toOpen(n uint32, model task.Digest, by ed25519.PrivateKey) *pb.OpenRequest {
	x := &task.OpenRequest{Task: task.DigestOf(d.task), Round: n, Model: model}
	return &pb.OpenRequest{Task: "t", Round: n, Model: model[:], Signature: task.Sign(x, by).Signature}
}

// toAbort is a request to give a round up, signed with a key.
func (d *desk) toAbort(n uint32, spec task.Digest, reason string, by ed25519.PrivateKey) *pb.AbortRound {
	x := &task.AbortRequest{Task: task.DigestOf(d.task), Round: n, Spec: spec, Reason: reason}
	return &pb.AbortRound{Spec: spec[:], Reason: reason, Signature: task.Sign(x, by).Signature}
}

// TestAnotherAggregatorOpensNoRound: a certificate of the aggregator's role
// opens no round of a task that names another aggregator's key.
func TestAnotherAggregatorOpensNoRound(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	model, other := d.task.InitialModel, key(t, 9)
	another := d.toOpen(0, model, d.aggregator)
	another.Round = 1
	for name, in := range map[string]*pb.OpenRequest{
		"no signature":         {Task: "t", Model: model[:]},
		"another aggregator's": d.toOpen(0, model, other),
		"an admin's":           d.toOpen(0, model, d.admin),
		"of another round":     another,
		"of an abort's request": {Task: "t", Model: model[:], Signature: d.toAbort(0, task.Digest{}, "",
			d.aggregator).Signature},
	} {
		_, err := d.OpenRound(as(identity.Aggregator, "other"), in)
		want(t, name, err, errs.ErrSignature)
	}
	if n := d.events()[audit.SpecSigned]; n != 0 || d.vault() != 0 {
		t.Fatalf("%d specifications were signed, %d keys were made", n, d.vault())
	}
	d.round(0, model)
}

// TestAnotherAggregatorAbortsNoRound: only the task's own aggregator, or an
// admin with the key that signs tasks, has a round given up.
func TestAnotherAggregatorAbortsNoRound(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	spec, other := task.DigestOf(s), key(t, 9)
	changed := d.toAbort(0, spec, "one reason", d.aggregator)
	changed.Reason = "another"
	for name, x := range map[string]struct {
		role identity.Role
		in   *pb.AbortRound
	}{
		"no signature":                      {identity.Aggregator, &pb.AbortRound{Spec: spec[:]}},
		"another aggregator's":              {identity.Aggregator, d.toAbort(0, spec, "", other)},
		"the admin's from an aggregator":    {identity.Aggregator, d.toAbort(0, spec, "", d.admin)},
		"of another round":                  {identity.Aggregator, d.toAbort(1, spec, "", d.aggregator)},
		"of another reason":                 {identity.Aggregator, changed},
		"an admin without the signing key":  {identity.Admin, &pb.AbortRound{Spec: spec[:]}},
		"an admin with an aggregator's key": {identity.Admin, d.toAbort(0, spec, "", d.aggregator)},
		"a client with the right signature": {identity.Client, d.toAbort(0, spec, "", d.aggregator)},
	} {
		_, err := d.Abort(as(x.role, "other"), x.in)
		want(t, name, err, errs.ErrSignature)
	}
	if n := d.events()[audit.Aborted]; n != 0 {
		t.Fatal("the round was aborted")
	}
	if _, err := d.Abort(as(identity.Admin, "alice"), d.toAbort(0, spec, "an admin's wish", d.admin)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Abort(as(identity.Aggregator, "sum"), d.toAbort(0, spec, "too late", d.aggregator)); err != nil {
		t.Fatal(err)
	}
	if n := d.events()[audit.Aborted]; n != 1 {
		t.Fatalf("%d aborts in the log", n)
	}
}

// TestARefusalAlwaysSaysWhy: the log keeps the first refusals of a round; the
// answer to every later one still has its reason.
func TestARefusalAlwaysSaysWhy(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	gifts := d.gifts(s, "a", "b")
	const recorded = 256
	for i := range recorded + 20 {
		_, err := d.ask(manifest(gifts))
		want(t, "two clients", err, errs.ErrManifest)
		if !strings.Contains(err.Error(), "at least 3 are needed") {
			t.Fatalf("refusal %d does not say why: %v", i, err)
		}
	}
	if n := d.events()[audit.Refused]; n != recorded {
		t.Fatalf("%d refusals in the log, want %d", n, recorded)
	}
	if _, err := d.ask(manifest(append(gifts, d.gifts(s, "c")...))); err != nil {
		t.Fatal("refusals keep a good set out:", err)
	}
}
