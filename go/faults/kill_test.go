package faults

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/service"
)

const (
	killClients = 3
	killRounds  = 2
	killValues  = 150_000
	killEvents  = 120 // that a run reports, about
)

// killer kills services when a run has come to certain numbers of events, each
// after a short time of its own, so that any moment can be hit: encryption,
// upload, deposit, commit, sealing, decision, folding, download.
type killer struct {
	w      *world
	mu     sync.Mutex
	events int
	at     []blow
	going  sync.WaitGroup
	failed error
}

type blow struct {
	event int
	whom  string
	after time.Duration
}

func newKiller(w *world, rng *rand.Rand) *killer {
	k := &killer{w: w}
	for range 1 + rng.IntN(4) {
		k.at = append(k.at, blow{
			event: rng.IntN(killEvents), whom: []string{"kms", "aggregator"}[rng.IntN(2)],
			after: time.Duration(rng.IntN(12000)) * time.Microsecond,
		})
	}
	slices.SortFunc(k.at, func(a, b blow) int { return a.event - b.event })
	return k
}

func (k *killer) progress(client.Phase, int64, int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events++
	for len(k.at) > 0 && k.at[0].event <= k.events {
		b := k.at[0]
		k.at = k.at[1:]
		k.going.Add(1)
		time.AfterFunc(b.after, func() {
			defer k.going.Done()
			k.mu.Lock()
			defer k.mu.Unlock()
			if err := k.w.kill(b.whom); err != nil && k.failed == nil {
				k.failed = err
			}
		})
	}
}

// tally counts what the issue of acknowledgement is about.
type tally struct{ acknowledged, lost, twice, kills int }

// TestKilledServicesLoseNothingAndCountNothingTwice: whatever is killed when,
// every round ends with the mean of exactly the contributions whose receipts
// clients hold. CRYPTFLOW_KILL_RUNS sets the number of runs.
func TestKilledServicesLoseNothingAndCountNothingTwice(t *testing.T) {
	runs := setting(t, "CRYPTFLOW_KILL_RUNS", 20)
	var mu sync.Mutex
	var all tally
	t.Run("runs", func(t *testing.T) {
		for seed := range runs {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				one := killRun(t, uint64(seed))
				mu.Lock()
				defer mu.Unlock()
				all.acknowledged += one.acknowledged
				all.lost += one.lost
				all.twice += one.twice
				all.kills += one.kills
			})
		}
	})
	t.Logf("%d runs, %d kills: %d contributions acknowledged, %d lost, %d counted twice", runs, all.kills, all.acknowledged, all.lost, all.twice)
	if all.lost != 0 || all.twice != 0 || all.acknowledged != runs*killClients*killRounds {
		t.Fail()
	}
}

func killRun(t *testing.T, seed uint64) tally {
	rng := rand.New(rand.NewPCG(seed, 77))
	w := newWorld(t, killClients)
	q := client.TaskRequest{Mode: []string{"sum-key", "shared-key"}[seed%2], Preset: "n4096-q102", Rounds: killRounds, MinCohort: killClients, Deadline: 3600, WeightCap: 200}
	w.create(t, q, killValues)
	members := make([]*client.Client, killClients)
	for i := range members {
		members[i] = w.client(t, i)
	}
	k := newKiller(w, rng)
	var count tally
	for r := range killRounds {
		updates, means := make([][]float32, killClients), make([][]float32, killClients)
		reports := make([]*client.Report, killClients)
		for i := range updates {
			updates[i], means[i] = make([]float32, killValues), make([]float32, killValues)
			for j := range updates[i] {
				updates[i][j] = rng.Float32()*2 - 1
			}
		}
		weight := func(i int) int64 { return int64(10*i + r + 1) }
		var wg sync.WaitGroup
		for i, x := range members {
			wg.Go(func() {
				round, err := x.Open(t.Context())
				if err != nil {
					t.Errorf("round %d, client %d opening: %v", r, i, err)
					return
				}
				c, err := x.Contribute(t.Context(), round, client.Update{Values: updates[i], Examples: weight(i)}, k.progress)
				if err != nil {
					t.Errorf("round %d, client %d contributing: %v", r, i, err)
					return
				}
				k.mu.Lock()
				count.acknowledged++
				k.mu.Unlock()
				if reports[i], err = x.Collect(t.Context(), c, means[i], k.progress); err != nil {
					t.Errorf("round %d, client %d collecting: %v", r, i, err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		total := uint64(0)
		for i := range members {
			total += uint64(weight(i))
			if !slices.Contains(reports[0].Clients, service.ClientName(i)) {
				count.lost++
			}
		}
		if reports[0].WeightSum != total {
			count.twice++
			t.Errorf("round %d: weights of %d where clients sent %d", r, reports[0].WeightSum, total)
		}
		for j := range updates[0] {
			want := 0.0
			for i := range updates {
				want += float64(updates[i][j]) * float64(weight(i)) / float64(total)
			}
			if d := math.Abs(float64(means[0][j]) - want); d > reports[0].StatedBound+1e-7 {
				t.Fatalf("round %d: value %d is off by %g, the bound is %g", r, j, d, reports[0].StatedBound)
			}
			for i := range means {
				if means[i][j] != means[0][j] {
					t.Fatalf("round %d: clients opened different means", r)
				}
			}
		}
	}
	k.going.Wait()
	if k.failed != nil {
		t.Fatal(k.failed)
	}
	count.kills = w.kills
	return count
}
