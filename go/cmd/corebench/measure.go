package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/spread"
	"github.com/cryptflow/cryptflow/go/tag"
)

// row is one measurement: the median over runs. Values counted are those of
// one client for encrypt and decrypt, of all clients for fold.
type row struct {
	What            string    `json:"what"`
	System          string    `json:"system"`
	Parameters      string    `json:"parameters"`
	Clients         int       `json:"clients"`
	Values          int64     `json:"values"`
	Threads         int       `json:"threads"`
	ValuesPerSecond float64   `json:"values_per_second"`
	BytesPerValue   float64   `json:"bytes_per_value"`
	Bytes           int64     `json:"bytes"`                 // of all frames of one contribution
	Allocations     float64   `json:"allocations_per_chunk"` // warm
	Runs            []float64 `json:"runs"`                  // values per second of each
	// Apart is what as many calls on one thread each reach at the same time, in
	// values per second of all of them: what the machine has to give. It is
	// missing on one thread.
	Apart     float64   `json:"apart_values_per_second,omitempty"`
	ApartRuns []float64 `json:"apart_runs,omitempty"`
}

// bench holds one configuration and the frames that its measurements use.
type bench struct {
	round   seal.Round
	release seal.Release
	update  []float32
	frames  [][][]byte // by client
	result  [][]byte
	mean    []float32
}

// prepare seals the contributions of a whole cohort.
func prepare(s *params.Scheme, values int64) (*bench, error) {
	n := uint32(s.Clients)
	b := &bench{
		round: seal.Round{
			Scheme: s, SpecDigest: [32]byte{1}, Nonce: [32]byte{2}, WeightCap: 1, Tag: &tag.Key{3},
			Tensors: []seal.Tensor{{Name: "flat", Count: values, Range: 1}},
		},
		release: seal.Release{Terms: n, WeightSum: n, Squares: uint64(n)},
		update:  make([]float32, values),
		mean:    make([]float32, values),
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range b.update {
		b.update[i] = float32(rng.NormFloat64() * 0.2)
	}
	var err error
	if s.Mode == params.SharedKey {
		b.release.Secret, b.round.PublicKey, err = ckks.GenerateKeyPair(s.Preset, b.round.Nonce, ckks.Seed{1})
		if err != nil {
			return nil, err
		}
	}
	var keys []ckks.Seed
	for k := range s.Clients {
		secrets := secretsOf(k)
		keys = append(keys, secrets.Key)
		b.release.Members = append(b.release.Members, seal.Member{Client: client, Weight: 1})
		var frames [][]byte
		if err := b.seal(secrets, runtime.NumCPU(), func(_ int, f []byte) error {
			frames = append(frames, bytes.Clone(f))
			return nil
		}); err != nil {
			return nil, err
		}
		b.frames = append(b.frames, frames)
	}
	if s.Mode == params.SumKey {
		if b.release.Secret, err = ckks.SumSecrets(s.Preset, b.round.SpecDigest, keys); err != nil {
			return nil, err
		}
	}
	b.result = make([][]byte, len(b.frames[0]))
	return b, b.fold(1)
}

// client is whose contributions the tags are; one name does for all.
const client = "c"

// secretsOf are fixed: what is measured does not depend on them.
func secretsOf(client int) seal.Secrets {
	return seal.Secrets{Key: ckks.Seed{byte(client), 1}, Noise: ckks.Seed{byte(client), 2}}
}

func (b *bench) seal(secrets seal.Secrets, threads int, emit func(int, []byte) error) error {
	s, err := seal.NewSealer(b.round, secrets, b.update, 1, threads, seal.From(client))
	if err != nil {
		return err
	}
	return s.Seal(context.Background(), 0, s.Frames(), emit)
}

// encrypt makes one contribution: the scan for values that are not finite,
// keys, tags, frames and their hashes.
func (b *bench) encrypt(threads int) error {
	return b.seal(secretsOf(0), threads, func(int, []byte) error { return nil })
}

// fold checks and adds up the frames of all clients.
func (b *bench) fold(threads int) error {
	sums := make([]*fold.Accumulator, threads)
	return spread.Over(context.Background(), threads, len(b.result), func(worker, k int) error {
		if sums[worker] == nil {
			sums[worker] = fold.New(b.round.Scheme.Preset)
		}
		return b.add(sums[worker], k)
	})
}

// add folds frame k of all clients.
func (b *bench) add(sum *fold.Accumulator, k int) error {
	sum.Reset(b.round.Geometry().Header(k))
	for i := range b.frames {
		if err := sum.Add(b.frames[i][k], 1); err != nil {
			return err
		}
	}
	b.result[k] = sum.Append(b.result[k][:0])
	return nil
}

// decrypt opens the whole result and verifies its tag.
func (b *bench) decrypt(threads int) error {
	o, err := seal.NewOpener(b.round, b.release, threads)
	if err != nil {
		return err
	}
	last := len(b.result) - 1
	if _, err := o.OpenControl(b.result[last]); err != nil {
		return err
	}
	if err := o.OpenRange(context.Background(), 0, b.result[:last], b.mean); err != nil {
		return err
	}
	return o.Verify()
}

// work names what is measured.
func (b *bench) work(threads int) map[string]func() error {
	return map[string]func() error{
		"encrypt": func() error { return b.encrypt(threads) },
		"fold":    func() error { return b.fold(threads) },
		"decrypt": func() error { return b.decrypt(threads) },
	}
}

// turn is how many runs on one number of threads follow each other, after one
// that wakes the cores and does not count.
const turn = 3

// measure times every kind of work. Runs on different numbers of threads take
// turns, so that what else the machine does meets them alike.
func (p plan) measure(s *params.Scheme, values int64) ([]row, error) {
	b, err := prepare(s, values)
	if err != nil {
		return nil, err
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	allocations, err := b.allocations()
	if err != nil {
		return nil, err
	}
	size := b.round.Geometry().Size()
	var rows []row
	for _, what := range []string{"encrypt", "fold", "decrypt"} {
		counted := values
		if what == "fold" {
			counted *= int64(s.Clients)
		}
		mine := make([]row, len(p.threads))
		for from := 0; from < p.runs; from += turn {
			for i, threads := range p.threads {
				runtime.GOMAXPROCS(int(threads))
				runs := min(turn, p.runs-from)
				rates, err := timed(runs, counted, b.work(int(threads))[what])
				if err != nil {
					return nil, err
				}
				mine[i].Runs = append(mine[i].Runs, rates...)
				if threads == 1 {
					continue
				}
				if rates, err = timed(runs, counted*threads, b.apart(what, int(threads))); err != nil {
					return nil, err
				}
				mine[i].ApartRuns = append(mine[i].ApartRuns, rates...)
			}
		}
		for i, r := range mine {
			rows = append(rows, row{
				What: what, System: "cryptflow", Parameters: p.name(s), Clients: s.Clients, Values: values,
				Threads: int(p.threads[i]), ValuesPerSecond: median(r.Runs), Runs: r.Runs,
				BytesPerValue: float64(size) / float64(values), Bytes: size, Allocations: allocations[what],
				Apart: median(r.ApartRuns), ApartRuns: r.ApartRuns,
			})
		}
	}
	return rows, nil
}

// timed does the work once to wake the cores, and then says how many of the
// values counted each of the runs did a second.
func timed(runs int, counted int64, do func() error) ([]float64, error) {
	if err := do(); err != nil {
		return nil, err
	}
	var rates []float64
	for range runs {
		start := time.Now()
		if err := do(); err != nil {
			return nil, err
		}
		rates = append(rates, float64(counted)/time.Since(start).Seconds())
	}
	return rates, nil
}

// apart does the work once on each of the threads, independently.
func (b *bench) apart(what string, threads int) func() error {
	works := make([]func() error, threads)
	for i := range works {
		other := *b
		other.result, other.mean = make([][]byte, len(b.result)), make([]float32, len(b.mean))
		for k, frame := range b.result {
			other.result[k] = bytes.Clone(frame)
		}
		works[i] = other.work(1)[what]
	}
	return func() error {
		return spread.Over(context.Background(), threads, threads, func(_, k int) error { return works[k]() })
	}
}

// median is 0 of nothing.
func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(x))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
