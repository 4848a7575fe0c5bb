package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"runtime"
	"time"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
	"github.com/cryptflow/cryptflow/go/tag"
)

// report is what going through an update chunk by chunk took.
type report struct {
	Values        int64              `json:"values"`
	Clients       int                `json:"clients"`
	Parameters    string             `json:"parameters"`
	Threads       int                `json:"threads"`
	Frames        int                `json:"frames"`
	Bytes         int64              `json:"bytes"`
	BytesPerValue float64            `json:"bytes_per_value"`
	Seconds       map[string]float64 `json:"seconds"`           // by kind of work, over all clients
	Rates         map[string]float64 `json:"values_per_second"` // a client's values for encrypt and decrypt, all for fold
	LargestError  float64            `json:"largest_error"`     // of the mean, against the values
	Bound         float64            `json:"bound"`
	Memory        memory             `json:"memory"`
}

// step is how many frames of each client are held at a time.
const step = 32

// streamed goes through a whole round on the values of a file, twice: first
// every client encrypts all of it, as for sending, and no frame is kept; then a
// range of frames of every client is made again, folded, opened and compared
// with the values before the next. The control frame, which is opened first,
// holds the tag of all others. Every client contributes the same update with
// secrets of its own.
func streamed(path string, values int64, clients, threads int) (*report, error) {
	update, unmap, err := mapped(path, values)
	if err != nil {
		return nil, err
	}
	defer unmap()
	runtime.GOMAXPROCS(threads)
	s, err := params.NewScheme(params.Choice{Preset: "n4096-q102", Mode: params.SumKey, Bits: 16, Clients: clients, Weight: 1, Rounding: params.Stochastic})
	if err != nil {
		return nil, err
	}
	t := &streaming{
		round: seal.Round{
			Scheme: s, SpecDigest: [32]byte{3}, WeightCap: 1, Tag: &tag.Key{3},
			Tensors: []seal.Tensor{{Name: "flat", Count: values, Range: 1}},
		},
		update: update, threads: threads, acc: fold.New(s.Preset), seconds: map[string]float64{},
	}
	if err := t.run(); err != nil {
		return nil, err
	}
	g, n := t.round.Geometry(), float64(values)
	return &report{
		Values: values, Clients: clients, Parameters: plan{clients: clients}.name(s), Threads: threads,
		Frames: g.Frames(), Bytes: g.Size(), BytesPerValue: float64(g.Size()) / n,
		Seconds: t.seconds, Rates: map[string]float64{
			"encrypt": n * float64(clients) / t.seconds["encrypt"],
			"fold":    n * float64(clients) / t.seconds["fold"],
			"decrypt": n / t.seconds["decrypt"],
		},
		LargestError: t.worst, Bound: t.bound, Memory: t.memory,
	}, nil
}

// streaming is a round in progress.
type streaming struct {
	round   seal.Round
	update  []float32
	threads int
	sealers []*seal.Sealer
	opener  *seal.Opener
	acc     *fold.Accumulator
	frames  [][][]byte // by client, a range of frames
	sums    [][]byte
	mean    []float32
	seconds map[string]float64
	worst   float64
	bound   float64
	memory  memory
}

func (t *streaming) run() error {
	if err := t.memory.sample("start"); err != nil {
		return err
	}
	if err := t.encrypt(); err != nil {
		return err
	}
	if err := t.opening(); err != nil {
		return err
	}
	last := t.round.Geometry().ControlIndex()
	for from := 0; from < last; from += step {
		if err := t.open(from, min(from+step, last)); err != nil {
			return err
		}
		if err := t.memory.sample("fold and decrypt"); err != nil {
			return err
		}
	}
	return t.opener.Verify()
}

// encrypt makes every frame of every client once.
func (t *streaming) encrypt() error {
	total := t.round.Scheme.Clients * t.round.Geometry().Frames()
	done := 0
	for k := range t.round.Scheme.Clients {
		if err := t.timed("encrypt", func() error {
			s, err := seal.NewSealer(t.round, secretsOf(k), t.update, 1, t.threads, seal.From(client))
			if err != nil {
				return err
			}
			t.sealers = append(t.sealers, s)
			return s.Seal(context.Background(), 0, s.Frames(), func(int, []byte) error {
				if done++; done%step != 0 {
					return nil
				}
				if 2*done < total {
					return t.memory.sample("encrypt, first half")
				}
				return t.memory.sample("encrypt, second half")
			})
		}); err != nil {
			return err
		}
	}
	return nil
}

// opening makes room for a range and opens the control frame.
func (t *streaming) opening() error {
	clients := t.round.Scheme.Clients
	n := uint32(clients)
	release := seal.Release{Terms: n, WeightSum: n, Squares: uint64(n)}
	var keys []ckks.Seed
	for k := range clients {
		keys = append(keys, secretsOf(k).Key)
		release.Members = append(release.Members, seal.Member{Client: client, Weight: 1})
		t.frames = append(t.frames, make([][]byte, step))
	}
	var err error
	if release.Secret, err = ckks.SumSecrets(t.round.Scheme.Preset, t.round.SpecDigest, keys); err != nil {
		return err
	}
	if t.opener, err = seal.NewOpener(t.round, release, t.threads); err != nil {
		return err
	}
	t.bound = t.round.Bound(1, release, uint64(n)) + 0x1p-23 // rounding to float32
	t.sums, t.mean = make([][]byte, step), make([]float32, step*t.round.Scheme.ChunkValues())
	last := t.round.Geometry().ControlIndex()
	if err := t.add(last, last+1); err != nil {
		return err
	}
	_, err = t.opener.OpenControl(t.sums[0])
	return err
}

// timed adds to the seconds of a kind of work.
func (t *streaming) timed(what string, do func() error) error {
	start := time.Now()
	err := do()
	t.seconds[what] += time.Since(start).Seconds()
	return err
}

// add seals the frames [from, to) of every client and adds them up.
func (t *streaming) add(from, to int) error {
	for i, s := range t.sealers {
		if err := s.Seal(context.Background(), from, to, func(k int, f []byte) error {
			t.frames[i][k-from] = append(t.frames[i][k-from][:0], f...)
			return nil
		}); err != nil {
			return err
		}
	}
	return t.timed("fold", func() error {
		for k := range to - from {
			t.acc.Reset(t.round.Geometry().Header(from + k))
			for i := range t.frames {
				if err := t.acc.Add(t.frames[i][k], 1); err != nil {
					return err
				}
			}
			t.sums[k] = t.acc.Append(t.sums[k][:0])
		}
		return nil
	})
}

// open adds a range, opens it and compares it with the values.
func (t *streaming) open(from, to int) error {
	if err := t.add(from, to); err != nil {
		return err
	}
	g := t.round.Geometry()
	start, _ := g.Span(from)
	_, end := g.Span(to - 1)
	mean := t.mean[:end-start]
	if err := t.timed("decrypt", func() error {
		return t.opener.OpenRange(context.Background(), from, t.sums[:to-from], mean)
	}); err != nil {
		return err
	}
	for i, x := range t.update[start:end] {
		t.worst = max(t.worst, math.Abs(float64(x)-float64(mean[i])))
	}
	if t.worst > t.bound {
		return fmt.Errorf("frames %d to %d: the mean differs by %g from the values, the bound is %g", from, to, t.worst, t.bound)
	}
	if len(t.frames) > 1 && bytes.Equal(t.frames[0][0], t.frames[1][0]) {
		return fmt.Errorf("two clients sent the same frame %d", from)
	}
	return nil
}
