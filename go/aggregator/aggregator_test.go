package aggregator_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cryptflow/cryptflow/go/aggregator"
	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
)

// disk is a segment in a real file. It can be made to fail.
type disk struct {
	*os.File
	fail              error
	committed, closed bool
}

func (d *disk) Write(b []byte) (int, error) {
	if d.fail != nil {
		return 0, d.fail
	}
	return d.File.Write(b)
}

func (d *disk) Commit() error {
	if d.fail != nil {
		return d.fail
	}
	d.committed = true
	return d.Sync()
}

func (d *disk) Abort() error {
	d.closed = true
	return d.Close()
}

func newDisk(t *testing.T, name string) *disk {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &disk{File: f}
}

func newRound(t *testing.T, mode params.Mode, values int64) (seal.Round, []int32) {
	t.Helper()
	weight := 1
	if mode == params.SharedKey {
		weight = 9
	}
	s, err := params.NewScheme(params.Choice{Preset: "n4096-q102", Mode: mode, Bits: 16, Clients: 8, Weight: weight, Rounding: params.NearestEven})
	if err != nil {
		t.Fatal(err)
	}
	r := seal.Round{Scheme: s, SpecDigest: [32]byte{7}, WeightCap: 9, Tensors: []seal.Tensor{{Name: "w", Count: values, Range: 1}}}
	var secret []int32
	if mode == params.SharedKey {
		seed, err := ckks.NewSeed()
		if err != nil {
			t.Fatal(err)
		}
		if secret, r.PublicKey, err = ckks.GenerateKeyPair(s.Preset, r.Nonce, seed); err != nil {
			t.Fatal(err)
		}
	}
	return r, secret
}

type client struct {
	secrets seal.Secrets
	values  []float32
	frames  [][]byte
	root    merkle.Hash
}

func newClient(t *testing.T, r seal.Round, rng *rand.Rand, weight uint32) *client {
	t.Helper()
	c := &client{values: make([]float32, r.Values())}
	for i := range c.values {
		c.values[i] = rng.Float32()*2 - 1
	}
	var err error
	if c.secrets, err = seal.NewSecrets(); err != nil {
		t.Fatal(err)
	}
	s, err := seal.NewSealer(r, c.secrets, c.values, weight, 1)
	if err != nil {
		t.Fatal(err)
	}
	var tree merkle.Tree
	if err := s.Seal(t.Context(), 0, s.Frames(), func(_ int, f []byte) error {
		c.frames = append(c.frames, bytes.Clone(f))
		tree.Append(merkle.Leaf(f))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c.root = tree.Root()
	return c
}

func upload(t *testing.T, r seal.Round, c *client) *disk {
	t.Helper()
	d := newDisk(t, "segment")
	u, err := aggregator.NewUpload(r.Geometry(), d)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range c.frames {
		if err := u.Put(i, f); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Commit(c.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestSumOfUploadsOpensToTheMean goes from values to values: seal, upload,
// add, open. The result's bytes depend neither on order nor on workers.
func TestSumOfUploadsOpensToTheMean(t *testing.T) {
	for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
		t.Run(mode.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			r, secret := newRound(t, mode, 45_000)
			weights := []uint32{9, 1, 4}
			var set []aggregator.Contribution
			rel := seal.Release{Secret: secret}
			var seeds []ckks.Seed
			want := make([]float64, r.Values())
			for _, w := range weights {
				c := newClient(t, r, rng, w)
				public := uint32(1)
				if mode == params.SharedKey {
					public = w
				}
				seeds = append(seeds, c.secrets.Key)
				set = append(set, aggregator.Contribution{Client: "c", Weight: public, Frames: upload(t, r, c)})
				rel.Terms++
				rel.WeightSum += public
				rel.Squares += uint64(public) * uint64(public)
				for i, v := range c.values {
					want[i] += float64(v) * float64(w) / 14
				}
			}
			if mode == params.SumKey {
				var err error
				if rel.Secret, err = ckks.SumSecrets(r.Scheme.Preset, r.SpecDigest, seeds); err != nil {
					t.Fatal(err)
				}
			}
			collect := func(set []aggregator.Contribution, workers int) (frames [][]byte, root merkle.Hash) {
				root, err := aggregator.Sum(t.Context(), r.Geometry(), set, workers, func(i int, f []byte) error {
					if i != len(frames) {
						t.Fatalf("frame %d after %d", i, len(frames))
					}
					frames = append(frames, bytes.Clone(f))
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return frames, root
			}
			frames, root := collect(set, 1)
			_, again := collect([]aggregator.Contribution{set[2], set[0], set[1]}, 3)
			if root != again {
				t.Fatal("another order or number of workers gives other bytes")
			}
			o, err := seal.NewOpener(r, rel, 2)
			if err != nil {
				t.Fatal(err)
			}
			last := len(frames) - 1
			control, err := o.OpenControl(frames[last])
			if err != nil {
				t.Fatal(err)
			}
			if control[0] != 14 {
				t.Fatalf("weights sum to %d", control[0])
			}
			got := make([]float32, r.Values())
			if err := o.OpenRange(t.Context(), 0, frames[:last], got); err != nil {
				t.Fatal(err)
			}
			bound := r.Bound(1, rel, control[0]) + 1.0/(1<<23)
			for i := range got {
				if d := float64(got[i]) - want[i]; d > bound || d < -bound {
					t.Fatalf("value %d is off by %g, bound %g", i, d, bound)
				}
			}
		})
	}
}

func TestFramesArriveInOrderAndOnce(t *testing.T) {
	r, _ := newRound(t, params.SumKey, 45_000)
	rng := rand.New(rand.NewPCG(3, 4))
	a, b := newClient(t, r, rng, 1), newClient(t, r, rng, 1)
	d := newDisk(t, "segment")
	u, err := aggregator.NewUpload(r.Geometry(), d)
	if err != nil {
		t.Fatal(err)
	}
	put := func(index int, f []byte, want error) {
		t.Helper()
		if err := u.Put(index, f); !errors.Is(err, want) {
			t.Fatalf("frame %d: %v, want %v", index, err, want)
		}
	}
	put(1, a.frames[1], errs.ErrChunkOrder)
	put(-1, a.frames[0], errs.ErrChunkOrder)
	put(len(a.frames), a.frames[0], errs.ErrChunkOrder)
	put(0, a.frames[0], nil)
	put(0, a.frames[0], nil)
	put(0, b.frames[0], errs.ErrChunkConflict)
	put(1, a.frames[0], errs.ErrFrameContext)
	put(1, a.frames[1][:len(a.frames[1])-1], errs.ErrFrame)
	if u.Next() != 1 {
		t.Fatalf("next is %d after one frame", u.Next())
	}
	if err := u.Commit(a.root); !errors.Is(err, errs.ErrIncomplete) {
		t.Fatalf("commit of a part: %v", err)
	}
	for i := 1; i < len(a.frames); i++ {
		put(i, a.frames[i], nil)
	}
	if err := u.Commit(b.root); !errors.Is(err, errs.ErrRoot) {
		t.Fatalf("commit with another root: %v", err)
	}
	for range 2 {
		if err := u.Commit(a.root); err != nil {
			t.Fatal(err)
		}
	}
	put(0, a.frames[0], nil)
	stored, err := os.ReadFile(d.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stored, bytes.Join(a.frames, nil)) || !d.committed {
		t.Fatal("the segment does not hold the frames once, in order")
	}
	if err := u.Abort(); err != nil || d.closed {
		t.Fatal("a committed upload was given up")
	}
}

// TestTwoConnectionsOfOneUpload has both send everything at once.
func TestTwoConnectionsOfOneUpload(t *testing.T) {
	r, _ := newRound(t, params.SumKey, 45_000)
	c := newClient(t, r, rand.New(rand.NewPCG(5, 6)), 1)
	d := newDisk(t, "segment")
	u, err := aggregator.NewUpload(r.Geometry(), d)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i, f := range c.frames {
				if err := u.Put(i, f); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := u.Commit(c.root); err != nil {
		t.Fatal(err)
	}
	if info, err := d.Stat(); err != nil || info.Size() != r.Geometry().Size() {
		t.Fatalf("the segment has %d bytes, want %d", info.Size(), r.Geometry().Size())
	}
}

func TestAFullDiskEndsTheUpload(t *testing.T) {
	r, _ := newRound(t, params.SumKey, 45_000)
	c := newClient(t, r, rand.New(rand.NewPCG(7, 8)), 1)
	for _, at := range []int{0, 1, len(c.frames)} {
		d := newDisk(t, "segment")
		u, err := aggregator.NewUpload(r.Geometry(), d)
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range c.frames {
			if i == at {
				d.fail = errs.ErrDiskFull
			}
			if err := u.Put(i, f); i >= at != errors.Is(err, errs.ErrDiskFull) {
				t.Fatalf("frame %d with the disk full at %d: %v", i, at, err)
			}
		}
		d.fail = errs.ErrDiskFull
		if err := u.Commit(c.root); !errors.Is(err, errs.ErrDiskFull) {
			t.Fatalf("commit on a full disk: %v", err)
		}
		d.fail = nil // room again: the segment stays given up
		if err := u.Commit(c.root); !errors.Is(err, errs.ErrDiskFull) || !d.closed || d.committed {
			t.Fatalf("an upload went on after a failed write: %v", err)
		}
	}
}

func TestASumRefusesWhatItCannotRead(t *testing.T) {
	r, _ := newRound(t, params.SumKey, 45_000)
	c := newClient(t, r, rand.New(rand.NewPCG(9, 10)), 1)
	whole := bytes.Join(c.frames, nil)
	residue := bytes.Clone(whole)
	copy(residue[frame.HeaderSize:], bytes.Repeat([]byte{0xff}, 16))
	for _, x := range []struct {
		name  string
		bytes []byte
		want  error
	}{
		{"cut", whole[:len(whole)-1], io.EOF},
		{"empty", nil, io.EOF},
		{"residue", residue, errs.ErrFrame},
		{"shifted", append([]byte{0}, whole...), errs.ErrFrame},
	} {
		t.Run(x.name, func(t *testing.T) {
			set := []aggregator.Contribution{{Client: "a", Weight: 1, Frames: bytes.NewReader(whole)}, {Client: "b", Weight: 1, Frames: bytes.NewReader(x.bytes)}}
			_, err := aggregator.Sum(t.Context(), r.Geometry(), set, 2, func(int, []byte) error { return nil })
			if !errors.Is(err, x.want) || !bytes.Contains([]byte(err.Error()), []byte("of b")) {
				t.Fatalf("%v, want %v naming b", err, x.want)
			}
		})
	}
}

func TestASumKeepsToTheScheme(t *testing.T) {
	r, _ := newRound(t, params.SumKey, 100)
	c := newClient(t, r, rand.New(rand.NewPCG(11, 12)), 1)
	whole := bytes.Join(c.frames, nil)
	one := aggregator.Contribution{Client: "a", Weight: 1, Frames: bytes.NewReader(whole)}
	heavy := one
	heavy.Weight = 2
	nine := make([]aggregator.Contribution, 9)
	for i := range nine {
		nine[i] = one
	}
	none := func(int, []byte) error { return nil }
	for _, x := range []struct {
		set  []aggregator.Contribution
		want error
	}{{nil, errs.ErrLimit}, {nine, errs.ErrLimit}, {[]aggregator.Contribution{heavy}, errs.ErrWeight}} {
		if _, err := aggregator.Sum(t.Context(), r.Geometry(), x.set, 1, none); !errors.Is(err, x.want) {
			t.Fatalf("%d contributions: %v, want %v", len(x.set), err, x.want)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := aggregator.Sum(gone, r.Geometry(), nine[:2], 1, none); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}
