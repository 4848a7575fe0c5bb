// Command corebench measures the core on one thread: encrypting float32
// values to frames, folding frames, decrypting frames to float32. It prints
// rows of JSON; benchmarks/core.py runs it and adds its peers.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/tag"
)

// row is one measurement: the median over runs. Values are those of one
// client for encrypt and decrypt, of all clients for fold.
type row struct {
	What            string    `json:"what"`
	System          string    `json:"system"`
	Parameters      string    `json:"parameters"`
	Threads         int       `json:"threads"`
	ValuesPerSecond float64   `json:"values_per_second"`
	BytesPerValue   float64   `json:"bytes_per_value"`
	Runs            []float64 `json:"runs"` // values per second of each
}

func main() {
	values := flag.Int64("values", 1<<20, "values of an update")
	clients := flag.Int("clients", 8, "clients of the cohort")
	runs := flag.Int("runs", 7, "runs of each measurement, after one that does not count")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	rows, err := all(*values, *clients, *runs)
	if err == nil {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(rows)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "corebench:", err)
		os.Exit(1)
	}
}

func all(values int64, clients, runs int) ([]row, error) {
	var rows []row
	for _, c := range []params.Choice{
		{Preset: "n4096-q102", Mode: params.SumKey, Bits: 16, Weight: 1, Rounding: params.Stochastic},
		{Preset: "n4096-q102", Mode: params.SumKey, Bits: 16, Weight: 1, Rounding: params.NearestEven},
		{Preset: "n4096-q102", Mode: params.SumKey, Bits: 8, Weight: 1, Rounding: params.Stochastic},
		{Preset: "n8192-q204", Mode: params.SumKey, Bits: 16, Weight: 1, Rounding: params.Stochastic},
		{Preset: "n2048-q52", Mode: params.SumKey, Bits: 16, Weight: 1, Rounding: params.Stochastic},
		{Preset: "n4096-q102", Mode: params.SharedKey, Bits: 16, Weight: 1, Rounding: params.Stochastic},
		{Preset: "n8192-q204", Mode: params.SharedKey, Bits: 16, Weight: 1, Rounding: params.Stochastic},
	} {
		c.Clients = clients
		s, err := params.NewScheme(c)
		if err != nil {
			return nil, err
		}
		more, err := measure(s, values, clients, runs)
		if err != nil {
			return nil, fmt.Errorf("%s, %v: %w", s.Name, s.Mode, err)
		}
		rows = append(rows, more...)
	}
	return rows, nil
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

func measure(s *params.Scheme, values int64, clients, runs int) ([]row, error) {
	b, err := prepare(s, values, clients)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s %v, %d bits, %v rounding, %d clients", s.Name, s.Mode, s.Bits, s.Rounding, clients)
	bytesPerValue := float64(b.round.Geometry().Size()) / float64(values)
	var rows []row
	for _, m := range []struct {
		what   string
		values int64
		do     func() error
	}{
		{"encrypt", values, b.encrypt},
		{"fold", values * int64(clients), b.fold},
		{"decrypt", values, b.decrypt},
	} {
		r := row{What: m.what, System: "cryptflow", Parameters: name, Threads: 1, BytesPerValue: bytesPerValue}
		for k := range runs + 1 {
			start := time.Now()
			if err := m.do(); err != nil {
				return nil, err
			}
			if k > 0 {
				r.Runs = append(r.Runs, float64(m.values)/time.Since(start).Seconds())
			}
		}
		r.ValuesPerSecond = median(r.Runs)
		rows = append(rows, r)
	}
	return rows, nil
}

func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func prepare(s *params.Scheme, values int64, clients int) (*bench, error) {
	b := &bench{
		round: seal.Round{
			Scheme: s, SpecDigest: [32]byte{1}, Nonce: [32]byte{2}, WeightCap: 1, Tag: &tag.Key{3},
			Tensors: []seal.Tensor{{Name: "flat", Count: values, Range: 1}},
		},
		release: seal.Release{Terms: uint32(clients), WeightSum: uint32(clients), Squares: uint64(clients)},
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
	for k := range clients {
		secrets := seal.Secrets{Key: ckks.Seed{byte(k), 1}, Noise: ckks.Seed{byte(k), 2}}
		keys = append(keys, secrets.Key)
		b.release.Members = append(b.release.Members, seal.Member{Client: "c", Weight: 1})
		var frames [][]byte
		if err := b.seal(secrets, func(_ int, f []byte) error {
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
	return b, b.fold()
}

func (b *bench) seal(secrets seal.Secrets, emit func(int, []byte) error) error {
	s, err := seal.NewSealer(b.round, secrets, b.update, 1, 1, seal.From("c"))
	if err != nil {
		return err
	}
	return s.Seal(context.Background(), 0, s.Frames(), emit)
}

// encrypt makes one contribution: the scan for values that are not finite,
// keys, frames and their hashes.
func (b *bench) encrypt() error {
	return b.seal(seal.Secrets{Key: ckks.Seed{1}, Noise: ckks.Seed{2}}, func(int, []byte) error { return nil })
}

// fold checks and adds up the frames of all clients.
func (b *bench) fold() error {
	g := b.round.Geometry()
	acc := fold.New(b.round.Scheme.Preset)
	for k := range b.result {
		acc.Reset(g.Header(k))
		for i := range b.frames {
			if err := acc.Add(b.frames[i][k], 1); err != nil {
				return err
			}
		}
		b.result[k] = acc.Append(b.result[k][:0])
	}
	return nil
}

// decrypt opens the whole result.
func (b *bench) decrypt() error {
	o, err := seal.NewOpener(b.round, b.release, 1)
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
