package canary_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/cryptflow/cryptflow/go/canary"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc"
)

func geometry(t *testing.T, preset string, chunks int64, canaries int) frame.Geometry {
	t.Helper()
	s, err := params.NewScheme(params.Choice{Preset: preset, Mode: params.SumKey, Bits: 8, Clients: 5, Weight: 1, Rounding: params.NearestEven})
	if err != nil {
		t.Fatal(err)
	}
	g := frame.Geometry{Scheme: s, Values: chunks * int64(s.ChunkValues()), Controls: 5, Canaries: canaries}
	if err := g.Validate(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestAPathProvesTheCanaries of contributions of every number of frames, and of
// nothing else.
func TestAPathProvesTheCanaries(t *testing.T) {
	for chunks := int64(1); chunks < 20; chunks++ {
		g := geometry(t, "n4096-q102", chunks, 8)
		own := make([]byte, g.CanarySize())
		own[3] = 9
		var tree merkle.Tree
		for i := range g.Frames() {
			tree.Append(merkle.Leaf([]byte{byte(i)}))
		}
		plain, root, path := tree.Root(), canary.Root(tree, own), canary.Path(&tree)
		if tree.Root() != plain || canary.Root(tree, nil) != plain || root == plain {
			t.Fatal("the tree of the frames was changed")
		}
		residues, err := canary.Open(g, root, own, path)
		if err != nil || len(residues) != 2 || len(residues[0]) != 8 {
			t.Fatalf("%d frames: %v", g.Frames(), err)
		}
		refused := func(what string, g frame.Geometry, root merkle.Hash, own []byte, path [][]byte) {
			t.Helper()
			if _, err := canary.Open(g, root, own, path); !errors.Is(err, errs.ErrFrame) {
				t.Errorf("%d frames, %s: %v", g.Frames(), what, err)
			}
		}
		bent := bytes.Clone(own)
		bent[3]++
		refused("another residue", g, root, bent, path)
		refused("residues that are none", g, root, bytes.Repeat([]byte{255}, len(own)), path)
		refused("too few residues", g, root, own[1:], path)
		refused("the root of the frames alone", g, plain, own, path)
		refused("a hash too few", g, root, own, path[1:])
		refused("a hash too many", g, root, own, append(slices.Clone(path), path[0]))
		cut := slices.Clone(path)
		cut[0] = cut[0][1:]
		refused("a short hash", g, root, own, cut)
		if len(path) > 1 {
			cut = slices.Clone(path)
			cut[0], cut[1] = cut[1], cut[0]
			refused("hashes in another order", g, root, own, cut)
		}
		refused("another number of frames", geometry(t, "n4096-q102", chunks+1, 8), root, own, path)
	}
}

// TestTheLargestRequestFits what a key service takes: canaries of the largest
// cohort, with the path of the largest update, beside its manifest.
func TestTheLargestRequestFits(t *testing.T) {
	const path, name, entry = 26 * (2 + 32), 3 + 128, 16 + 128 + 32 + 32 + 4
	most := 0
	for _, p := range params.Presets() {
		g := geometry(t, p.Name, 1, params.MaxCanaries)
		most = max(most, g.CanarySize())
	}
	if n := params.MaxClients * (most + path + name + entry); n > rpc.MaxDecide {
		t.Errorf("a request may have %d bytes", n)
	}
}
