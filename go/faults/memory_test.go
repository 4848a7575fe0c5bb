package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/params"
)

const mib = 1 << 20

// allowance is how much more memory the larger load may need.
const allowance = 32 * mib

// peak is the largest resident set that the aggregator had in one round with
// contributions of some bytes each.
func peak(t *testing.T, clients int, bytes int64) int64 {
	t.Helper()
	w := newWorld(t, clients)
	scheme, err := params.NewScheme(params.Choice{Preset: "n4096-q102", Mode: params.SumKey, Bits: 16, Clients: clients, Weight: 1, Rounding: params.Stochastic})
	if err != nil {
		t.Fatal(err)
	}
	frame := int64(scheme.N()*len(scheme.Primes)*scheme.Width) / 8
	values := int(bytes / frame * int64(scheme.ChunkValues()))
	w.create(t, client.TaskRequest{Preset: scheme.Name, Rounds: 1, MinCohort: uint32(clients), Deadline: 3600}, values)
	update := make([]float32, values) // the same for all: only the aggregator is measured
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range update {
		update[i] = rng.Float32() - 0.5
	}
	var wg sync.WaitGroup
	for i := range clients {
		x := w.client(t, i)
		wg.Go(func() {
			r, err := x.Average(t.Context(), client.Update{Values: update, Examples: 10}, make([]float32, values), func(client.Phase, int64, int64) {})
			if err != nil {
				t.Errorf("client %d: %v", i, err)
			} else if r.BytesUp < bytes*95/100 {
				t.Errorf("client %d sent %d bytes, not %d", i, r.BytesUp, bytes)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	w.mu.Lock()
	pid := w.children["aggregator"].Process.Pid
	w.mu.Unlock()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Fatal("the kernel does not tell the peak")
	}
	kb, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%2d clients with %3d MiB each: the aggregator's peak is %d MiB", clients, bytes/mib, kb<<10/mib)
	return kb << 10
}

// TestMemoryDoesNotGrowWithTheModel. CRYPTFLOW_MEMORY_MIB sets the larger
// contribution's size.
func TestMemoryDoesNotGrowWithTheModel(t *testing.T) {
	large := setting(t, "CRYPTFLOW_MEMORY_MIB", 64)
	base := peak(t, 2, mib)
	if more := peak(t, 2, int64(large)*mib); more > base+allowance {
		t.Fatalf("%d MiB of contribution cost %d MiB of memory", large, (more-base)/mib)
	}
}

func TestMemoryDoesNotGrowWithTheClients(t *testing.T) {
	base := peak(t, 2, 8*mib)
	if more := peak(t, 16, 8*mib); more > base+allowance {
		t.Fatalf("14 more clients cost %d MiB of memory", (more-base)/mib)
	}
}
