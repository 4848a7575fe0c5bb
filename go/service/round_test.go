package service_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/service"
)

// world is a house with both services running in this process.
type world struct {
	*service.House
	aggregator *service.Running
	kms        *service.Running
	log        *slog.Logger
}

func newWorld(t *testing.T, clients int, floor uint32) *world {
	t.Helper()
	h, err := service.OpenHouse(filepath.Join(t.TempDir(), "house"), service.Plan{Clients: clients, Floor: floor, Log: "info", Task: "t"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{House: h, log: slog.New(slog.DiscardHandler)}
	w.startKMS(t)
	w.startAggregator(t)
	t.Cleanup(func() { _ = w.aggregator.Close(); _ = w.kms.Close() })
	return w
}

func (w *world) startKMS(t *testing.T) {
	t.Helper()
	c, err := config.LoadKMS(w.KMS)
	if err != nil {
		t.Fatal(err)
	}
	if w.kms, err = service.StartKMS(c, "test", w.log); err != nil {
		t.Fatal(err)
	}
}

func (w *world) startAggregator(t *testing.T) {
	t.Helper()
	c, err := config.LoadAggregator(w.Aggregator)
	if err != nil {
		t.Fatal(err)
	}
	c.ReserveMiB = 0
	if w.aggregator, err = service.StartAggregator(c, "test", w.log); err != nil {
		t.Fatal(err)
	}
}

func (w *world) admin(t *testing.T) *client.Admin {
	t.Helper()
	p, err := config.LoadProfile(w.Admin)
	if err != nil {
		t.Fatal(err)
	}
	a, err := client.AdminOf(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func (w *world) create(t *testing.T, q client.TaskRequest, model []float32) {
	t.Helper()
	if q.Name == "" {
		q.Name = "t"
	}
	if len(q.Members) == 0 {
		for i := range w.Clients {
			q.Members = append(q.Members, client.MemberSpec{Name: service.ClientName(i)})
		}
	}
	if q.Ranges == "" {
		q.Ranges = "fixed"
	}
	if _, err := w.admin(t).CreateTask(t.Context(), q, model); err != nil {
		t.Fatal(err)
	}
}

func (w *world) client(t *testing.T, i int) *client.Client {
	t.Helper()
	p, err := config.LoadProfile(w.Clients[i])
	if err != nil {
		t.Fatal(err)
	}
	x, err := client.Dial(t.Context(), p, "", 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x
}

func quiet(client.Phase, int64, int64) {}

func noise(rng *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = rng.Float32()*2 - 1
	}
	return out
}

// together runs one function per client at once.
func together(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(i); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// checkMean compares a round's means with float64 arithmetic.
func checkMean(t *testing.T, updates [][]float32, weights []uint32, means [][]float32, bound float64) {
	t.Helper()
	total := 0.0
	for _, w := range weights {
		total += float64(w)
	}
	for k := range updates[0] {
		want := 0.0
		for i, u := range updates {
			want += float64(u[k]) * float64(weights[i]) / total
		}
		if d := math.Abs(float64(means[0][k]) - want); d > bound+1e-7 {
			t.Fatalf("value %d is off by %g, the bound is %g", k, d, bound)
		}
		for i := range means {
			if means[i][k] != means[0][k] {
				t.Fatalf("clients %d and 0 opened different values", i)
			}
		}
	}
}

// TestRoundsOverTheNetwork goes the whole way, over mutual TLS, several
// rounds, in both modes.
func TestRoundsOverTheNetwork(t *testing.T) {
	for _, mode := range []string{"sum-key", "shared-key"} {
		t.Run(mode, func(t *testing.T) {
			const clients, rounds, n = 4, 3, 40_000
			w := newWorld(t, clients, 3)
			rng := rand.New(rand.NewPCG(1, 9))
			model := noise(rng, n)
			w.create(t, client.TaskRequest{Mode: mode, Rounds: rounds, Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{n / 2}}, {Name: "b", Shape: []uint64{n / 4, 2}}}}, model)
			members := make([]*client.Client, clients)
			for i := range members {
				members[i] = w.client(t, i)
				got := make([]float32, n)
				if ok, err := members[i].InitialModel(t.Context(), got); err != nil || !ok || got[n-1] != model[n-1] {
					t.Fatal("the first model did not arrive", err)
				}
			}
			for r := range rounds {
				updates, means := make([][]float32, clients), make([][]float32, clients)
				weights, reports := make([]uint32, clients), make([]*client.Report, clients)
				for i := range clients {
					updates[i], means[i] = noise(rng, n), make([]float32, n)
				}
				examples := []int64{1000, 1, 314, 77}
				together(t, clients, func(i int) (err error) {
					reports[i], err = members[i].Average(t.Context(), client.Update{Values: updates[i], Examples: examples[i]}, means[i], quiet)
					return err
				})
				for i, x := range reports {
					weights[i] = x.Weight
					if x.Round != uint32(r) || x.Cohort != clients || x.ResultDigest != reports[0].ResultDigest {
						t.Fatalf("report %+v", x)
					}
				}
				checkMean(t, updates, weights, means, reports[0].StatedBound)
			}
			if _, err := members[0].Open(t.Context()); !errors.Is(err, errs.ErrTaskEnded) {
				t.Fatalf("a round after the last: %v", err)
			}
			log, err := w.admin(t).Audit(t.Context())
			if err != nil || len(log.Records) < 1+3*rounds {
				t.Fatalf("%d records, %v", len(log.Records), err)
			}
		})
	}
}

// TestAVanishedClientDoesNotHoldUpTheRound: it stops in the middle of its
// upload; the others' round is sealed at the deadline, and the next one too.
func TestAVanishedClientDoesNotHoldUpTheRound(t *testing.T) {
	const n = 60_000
	w := newWorld(t, 4, 3)
	w.create(t, client.TaskRequest{Rounds: 2, Deadline: 2, Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{n}}}}, make([]float32, n))
	members := make([]*client.Client, 4)
	for i := range members {
		members[i] = w.client(t, i)
	}
	rng := rand.New(rand.NewPCG(3, 3))
	lost, vanish := context.WithCancel(t.Context())
	round, err := members[3].Open(lost)
	if err != nil {
		t.Fatal(err)
	}
	_, err = members[3].Contribute(lost, round, client.Update{Values: noise(rng, n), Examples: 10}, func(p client.Phase, done, _ int64) {
		if p == client.Upload && done > 0 {
			vanish()
		}
	})
	if err == nil {
		t.Fatal("a cancelled contribution was committed")
	}
	for range 2 {
		updates, means, reports := make([][]float32, 3), make([][]float32, 3), make([]*client.Report, 3)
		for i := range updates {
			updates[i], means[i] = noise(rng, n), make([]float32, n)
		}
		together(t, 3, func(i int) (err error) {
			reports[i], err = members[i].Average(t.Context(), client.Update{Values: updates[i], Examples: 100}, means[i], quiet)
			return err
		})
		if reports[0].Cohort != 3 {
			t.Fatalf("a cohort of %d", reports[0].Cohort)
		}
		checkMean(t, updates, []uint32{100, 100, 100}, means, reports[0].StatedBound)
	}
	late := w.client(t, 3)
	if _, err := late.Open(t.Context()); !errors.Is(err, errs.ErrTaskEnded) && !errors.Is(err, errs.ErrModelMismatch) {
		t.Fatalf("a client that missed a round: %v", err)
	}
	if _, err := late.Contribute(t.Context(), round, client.Update{Values: noise(rng, n), Examples: 10}, quiet); !errors.Is(err, errs.ErrNotInCohort) && !errors.Is(err, errs.ErrKeysDestroyed) {
		t.Fatalf("a contribution after sealing: %v", err)
	}
}

// TestTooFewClientsAbortTheRound, signed by the key service; the same update
// then goes into the next round.
func TestTooFewClientsAbortTheRound(t *testing.T) {
	const n = 5000
	w := newWorld(t, 3, 3)
	w.create(t, client.TaskRequest{Rounds: 1, Deadline: 1, Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{n}}}}, make([]float32, n))
	a, b, c := w.client(t, 0), w.client(t, 1), w.client(t, 2)
	rng := rand.New(rand.NewPCG(5, 5))
	updates := [][]float32{noise(rng, n), noise(rng, n), noise(rng, n)}
	means := [][]float32{make([]float32, n), make([]float32, n), make([]float32, n)}
	reports := make([]*client.Report, 3)
	aborted := make(chan struct{})
	go func() {
		defer close(aborted)
		round, err := a.Open(t.Context())
		if err == nil {
			var x *client.Contribution
			if x, err = a.Contribute(t.Context(), round, client.Update{Values: updates[0], Examples: 5}, quiet); err == nil {
				_, err = a.Collect(t.Context(), x, means[0], quiet)
			}
		}
		if !errors.Is(err, errs.ErrAborted) {
			t.Errorf("a round of one: %v", err)
		}
	}()
	<-aborted
	together(t, 3, func(i int) (err error) {
		reports[i], err = []*client.Client{a, b, c}[i].Average(t.Context(), client.Update{Values: updates[i], Examples: 5}, means[i], quiet)
		return err
	})
	checkMean(t, updates, []uint32{5, 5, 5}, means, reports[0].StatedBound)
	if reports[0].ServiceRound == 0 || reports[0].Round != 0 {
		t.Fatal("the aborted round published a result")
	}
}

// TestRestartsInTheMiddle stops both services between a contribution and the
// rest of the round.
func TestRestartsInTheMiddle(t *testing.T) {
	const n = 30_000
	w := newWorld(t, 3, 3)
	w.create(t, client.TaskRequest{Rounds: 1, Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{n}}}}, make([]float32, n))
	rng := rand.New(rand.NewPCG(6, 6))
	members, updates, means := make([]*client.Client, 3), make([][]float32, 3), make([][]float32, 3)
	contributions, reports := make([]*client.Contribution, 3), make([]*client.Report, 3)
	for i := range members {
		members[i], updates[i], means[i] = w.client(t, i), noise(rng, n), make([]float32, n)
	}
	contribute := func(i int) error {
		round, err := members[i].Open(t.Context())
		if err != nil {
			return err
		}
		contributions[i], err = members[i].Contribute(t.Context(), round, client.Update{Values: updates[i], Examples: 7}, quiet)
		return err
	}
	for i := range 2 {
		if err := contribute(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.kms.Close(), w.aggregator.Close()); err != nil {
		t.Fatal(err)
	}
	w.startKMS(t)
	w.startAggregator(t)
	if err := contribute(2); err != nil {
		t.Fatal(err)
	}
	together(t, 3, func(i int) (err error) {
		reports[i], err = members[i].Collect(t.Context(), contributions[i], means[i], quiet)
		return err
	})
	checkMean(t, updates, []uint32{7, 7, 7}, means, reports[0].StatedBound)
}

// TestASecondProcessIsRefused: data folders have one owner.
func TestASecondProcessIsRefused(t *testing.T) {
	w := newWorld(t, 3, 3)
	k, err := config.LoadKMS(w.KMS)
	if err != nil {
		t.Fatal(err)
	}
	k.Listen, k.Service.Admin = "127.0.0.1:0", ""
	if _, err := service.StartKMS(k, "test", w.log); !errors.Is(err, errs.ErrConfig) {
		t.Fatal(fmt.Errorf("a second key service: %w", err))
	}
}

// deadline keeps a hanging test from hanging the run.
func TestMain(m *testing.M) {
	time.AfterFunc(5*time.Minute, func() { panic("the tests hang") })
	m.Run()
}
