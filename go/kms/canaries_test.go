package kms_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/canary"
	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// canaried gives a client's deposit with the canaries of a contribution under
// the seed used, which may be another one than that deposited.
func (d *desk) canaried(s *task.RoundSpec, client string, bend func(g *gift, own []byte)) (*gift, *pb.Canary) {
	d.t.Helper()
	g := d.gift(s, client, 1)
	used := &gift{Deposit: g.Deposit, seed: g.seed}
	if bend != nil {
		bend(used, nil)
	}
	shape, err := d.task.Shape(s.Kind)
	if err != nil {
		d.t.Fatal(err)
	}
	geometry, err := shape.Geometry(used.Spec)
	if err != nil {
		d.t.Fatal(err)
	}
	e, err := ckks.NewSumKeyEncryptor(shape.Scheme, used.Spec, used.seed, ckks.Seed{7}, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	words := make([][]uint64, len(shape.Scheme.Primes))
	for w := range words {
		words[w] = make([]uint64, shape.Scheme.N())
	}
	b := make([]byte, geometry.FrameSize(geometry.ControlIndex()))
	if err := e.Encrypt(b, geometry.Header(geometry.ControlIndex()), words); err != nil {
		d.t.Fatal(err)
	}
	own, err := geometry.Canary(b)
	if err != nil {
		d.t.Fatal(err)
	}
	if bend != nil {
		bend(used, own)
	}
	var tree merkle.Tree
	for i := range geometry.Frames() {
		tree.Append(merkle.Leaf([]byte{byte(i)}))
	}
	g.Root = canary.Root(tree, own)
	g.in = d.reseal(s, g)
	d.give(g)
	return g, &pb.Canary{Residues: own, Path: canary.Path(&tree)}
}

func (d *desk) withCanaries() {
	d.task.Canaries, d.task.MinCohort = params.DefaultCanaries, 3
}

// TestCanariesNameTheCulprit: a contribution that is not under its deposited key,
// is of another specification or was damaged before its root was made is refused
// by name, the log says so, and the set is released without it, although the task
// wants everybody.
func TestCanariesNameTheCulprit(t *testing.T) {
	for name, bend := range map[string]func(g *gift, own []byte){
		"another key":           func(g *gift, _ []byte) { g.seed[0]++ },
		"another specification": func(g *gift, _ []byte) { g.Spec[20]++ }, // the key id of frames is the same
		"damaged": func(_ *gift, own []byte) {
			if own != nil {
				own[3]++
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, params.SumKey)
			d.withCanaries()
			d.task.Permille = 1000
			d.create()
			s := d.round(0, d.task.InitialModel)
			var gifts []*gift
			var own []*pb.Canary
			for _, client := range clients[:4] {
				var g *gift
				var c *pb.Canary
				if client == "b" {
					g, c = d.canaried(s, client, bend)
				} else {
					g, c = d.canaried(s, client, nil)
				}
				gifts, own = append(gifts, g), append(own, c)
			}
			reply, err := d.decideWith(manifest(gifts), own)
			if err != nil || reply.Decision != nil || !slices.Equal(reply.Refused, []string{"b"}) {
				t.Fatalf("%v, %v", reply, err)
			}
			if n := d.events()[audit.Excluded]; n != 1 {
				t.Fatalf("%d exclusions are in the log", n)
			}
			if _, err := d.decideWith(manifest(gifts), own); err == nil || !strings.Contains(err.Error(), `"b" was refused`) {
				t.Fatalf("the client comes again: %v", err)
			}
			reply, err = d.decideWith(manifest(append(gifts[:1:1], gifts[2:]...)), append(own[:1:1], own[2:]...))
			if err != nil || reply.Decision == nil {
				t.Fatalf("not decided without it: %v", err)
			}
		})
	}
}

// TestNoAggregatorExcludesByCanary: what it sends must be what the client
// deposited. Anything else refuses the set in words, excludes nobody, and leaves
// the client among those that a set may not do without.
func TestNoAggregatorExcludesByCanary(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.withCanaries()
	d.task.Permille = 1000
	d.create()
	s := d.round(0, d.task.InitialModel)
	var gifts []*gift
	var own []*pb.Canary
	for _, client := range clients[:4] {
		g, c := d.canaried(s, client, nil)
		gifts, own = append(gifts, g), append(own, c)
	}
	refused := func(what, words string, m *task.Manifest, canaries []*pb.Canary) {
		t.Helper()
		reply, err := d.decideWith(m, canaries)
		want(t, what, err, errs.ErrManifest)
		if reply != nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", what, err)
		}
	}
	with := func(c *pb.Canary) []*pb.Canary { return append(slices.Clone(own[:3]), c) }
	bent := slices.Clone(own[3].Residues)
	bent[2] ^= 1
	m := manifest(gifts)
	refused("none", "update it", m, nil)
	refused("too few", "3 contributions for 4 entries", m, own[:3])
	refused("too many", "5 contributions for 4 entries", m, append(slices.Clone(own), own[0]))
	refused("bent", `for "d"`, m, with(&pb.Canary{Residues: bent, Path: own[3].Path}))
	refused("another's", `for "d"`, m, with(own[0]))
	refused("without a path", `for "d"`, m, with(&pb.Canary{Residues: own[3].Residues}))
	refused("empty", `for "d"`, m, with(&pb.Canary{}))
	refused("nothing", `for "d"`, m, with(nil))
	refused("long", `for "d"`, m, with(&pb.Canary{Residues: make([]byte, 1<<16), Path: own[3].Path}))
	if n := d.events()[audit.Excluded]; n != 0 {
		t.Fatalf("the aggregator excluded %d clients", n)
	}
	// A set without d is refused: d is willing and missing.
	refused("without it", "(d)", manifest(gifts[:3]), own[:3])
	if reply, err := d.decideWith(m, own); err != nil || reply.Decision == nil {
		t.Fatalf("%v, %v", reply, err)
	}
	if reply, err := d.decideWith(m, nil); err != nil || reply.Decision == nil {
		t.Fatalf("asking again: %v, %v", reply, err)
	}
}

// TestATaskWithoutCanariesTakesNone, as before there were any.
func TestATaskWithoutCanariesTakesNone(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	m := manifest(d.gifts(s, "a", "b", "c"))
	_, err := d.decideWith(m, make([]*pb.Canary, 3))
	want(t, "canaries", err, errs.ErrManifest)
	if reply, err := d.ask(m); err != nil || reply.Decision == nil {
		t.Fatalf("%v, %v", reply, err)
	}
}
