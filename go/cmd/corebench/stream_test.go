package main

import (
	"path/filepath"
	"strings"
	"testing"
)

const mib = 1 << 20

// TestStreamIsFlatInMemory goes through an update much larger than the memory
// allowed. The bound is that of a billion values (make bench-billion).
func TestStreamIsFlatInMemory(t *testing.T) {
	const values = 64 * mib // 256 MiB
	r, err := streamed(filepath.Join(t.TempDir(), "update"), values, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	m := r.Memory
	first, second := m.Phases["encrypt, first half"], m.Phases["encrypt, second half"]
	for phase, n := range m.Phases {
		t.Logf("%s: %d MiB", phase, n/mib)
	}
	if m.Peak > 256*mib {
		t.Errorf("%d MiB above the mapping; 256 are allowed", m.Peak/mib)
	}
	if first == 0 || second > first+16*mib {
		t.Errorf("encryption's memory grew from %d to %d MiB", first/mib, second/mib)
	}
	if m.Mapped < 4*values {
		t.Errorf("only %d MiB of the update were mapped", m.Mapped/mib)
	}
	if r.LargestError == 0 {
		t.Error("the mean is exact to the bit: nothing was rounded")
	}
}

// TestEveryCase measures every scheme once, small.
func TestEveryCase(t *testing.T) {
	p := plan{values: 250_000, clients: 3, runs: 1, threads: []int64{1, 2}}
	rows, err := p.all()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, r := range rows {
		kinds[r.What]++
		if len(r.Runs) != 1 || r.ValuesPerSecond != r.Runs[0] || r.ValuesPerSecond <= 0 {
			t.Errorf("%s %s: %v of runs %v", r.What, r.Parameters, r.ValuesPerSecond, r.Runs)
		}
		if r.Allocations != 0 {
			t.Errorf("%s %s: %v allocations a chunk", r.What, r.Parameters, r.Allocations)
		}
	}
	if rows[0].Parameters != "n4096-q102 sum-key b=16" || rows[0].What != "encrypt" || rows[0].Threads != 1 {
		t.Errorf("the first row is %+v", rows[0])
	}
	for _, what := range []string{"encrypt", "fold", "decrypt"} {
		if kinds[what]*3 != len(rows) {
			t.Errorf("%d rows of %s among %d", kinds[what], what, len(rows))
		}
	}
}

// TestPublishedBytesPerValue holds the bytes of a million values, headers
// included, to what the documentation promises; they do not depend on luck.
func TestPublishedBytesPerValue(t *testing.T) {
	p := plan{values: 1 << 20, clients: 8}
	cases, err := p.cases()
	if err != nil {
		t.Fatal(err)
	}
	limits := map[string]float64{
		"n4096-q102 sum-key b=16": 3.25, "n4096-q102 sum-key b=16 n=64": 3.25,
		"n4096-q102 sum-key b=24 n=64": 4.3, "n8192-q204 sum-key b=16": 2.6,
	}
	for _, s := range cases {
		limit, ok := limits[p.name(s)]
		if !ok {
			continue
		}
		delete(limits, p.name(s))
		b := bench{}
		b.round.Scheme, b.round.Tensors = s, nil
		g := b.round.Geometry()
		g.Values = p.values
		if got := float64(g.Size()) / float64(p.values); got > limit {
			t.Errorf("%s: %.3f bytes a value, more than %.2f", p.name(s), got, limit)
		}
	}
	if len(limits) > 0 {
		t.Errorf("not among the cases: %v", limits)
	}
}

func TestRefusesWhatIsNotMeasurable(t *testing.T) {
	for _, arguments := range [][]string{
		{"-threads", "0"}, {"-counts", "12,x"}, {"-values", "0"}, {"-only", "sign", "-values", "100"},
		{"-stream", filepath.Join(t.TempDir(), "no", "folder"), "-values", "10"},
	} {
		if err := run(arguments); err == nil {
			t.Errorf("%s: no error", strings.Join(arguments, " "))
		}
	}
}
