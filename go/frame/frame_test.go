package frame_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

func sample(p *params.Preset, components, coefficients int) ([]byte, frame.Header) {
	h := frame.Header{
		Preset: p.ID, Encoding: params.Lanes, Components: uint8(components), Key: [16]byte{1, 2, 3},
		Chunk: 77, Terms: 3, Weight: 3, Coefficients: uint32(coefficients),
	}
	if components == 2 {
		h.Weight = 700
	}
	rng := rand.New(rand.NewPCG(uint64(coefficients), uint64(components)))
	b := h.Append(nil)
	for c := range components {
		n := coefficients
		if c == 1 {
			n = p.N()
		}
		for _, q := range p.Primes {
			v := make([]uint64, n)
			for i := range v {
				v[i] = rng.Uint64N(q)
			}
			v[n-1] = q - 1
			block := make([]byte, frame.BlockSize(n, p.Width))
			frame.Pack(block, v, p.Width)
			b = append(b, block...)
		}
	}
	return b, h
}

func TestRoundTrip(t *testing.T) {
	for _, p := range params.Presets() {
		for components := 1; components <= 2; components++ {
			for _, n := range []int{1, 7, 8, 9, 255, 256, 257, p.N() - 1, p.N()} {
				b, want := sample(p, components, n)
				if len(b) != frame.Size(p, components, n) || len(b) != want.Size() {
					t.Fatalf("%s: %d bytes, Size says %d", p.Name, len(b), frame.Size(p, components, n))
				}
				got, err := frame.ParseHeader(b)
				if err != nil || got != want {
					t.Fatalf("%s: parsed %+v, %v", p.Name, got, err)
				}
				if err := frame.Check(b, want); err != nil {
					t.Fatalf("%s, %d components, %d coefficients: %v", p.Name, components, n, err)
				}
			}
		}
	}
}

// TestFastPackingEqualsBits compares Pack and Unpack with single bits.
func TestFastPackingEqualsBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for _, width := range []int{1, 17, 50, 51, 52, 57} {
		for _, n := range []int{1, 5, 8, 13, 24, 1000} {
			src := make([]uint64, n)
			want := make([]byte, frame.BlockSize(n, width))
			for i := range src {
				src[i] = rng.Uint64N(1 << width)
				for b := range width {
					at := i*width + b
					want[at/8] |= byte(src[i]>>b&1) << (at % 8)
				}
			}
			got := bytes.Repeat([]byte{0xa5}, len(want)+3)
			frame.Pack(got, src, width)
			if !bytes.Equal(got[:len(want)], want) || got[len(want)] != 0xa5 {
				t.Fatalf("width %d, %d residues: packed bytes differ", width, n)
			}
			back := make([]uint64, n)
			if !frame.Unpack(back, want, width, 1<<width) {
				t.Fatalf("width %d, %d residues: refused", width, n)
			}
			for i := range src {
				if back[i] != src[i] {
					t.Fatalf("width %d, residue %d of %d differs", width, i, n)
				}
			}
		}
	}
}

// TestEveryResidueIsChecked puts one residue equal to its prime at every
// position in turn.
func TestEveryResidueIsChecked(t *testing.T) {
	for _, p := range params.Presets() {
		const n = 300
		q := p.Primes[0]
		v, block := make([]uint64, n), make([]byte, frame.BlockSize(n, p.Width))
		for i := range n {
			v[i] = q
			frame.Pack(block, v, p.Width)
			if frame.Unpack(make([]uint64, n), block, p.Width, q) {
				t.Fatalf("%s: residue %d equal to the prime was accepted", p.Name, i)
			}
			v[i] = q - 1
		}
		frame.Pack(block, v, p.Width)
		if !frame.Unpack(make([]uint64, n), block, p.Width, q) {
			t.Fatalf("%s: the largest residues were refused", p.Name)
		}
		short := frame.BlockSize(n-1, p.Width)
		padded := bytes.Clone(block[:short])
		frame.Pack(padded, v[:n-1], p.Width)
		if spare := short*8 - (n-1)*p.Width; spare > 0 {
			padded[short-1] |= 0x80
			if frame.Unpack(make([]uint64, n-1), padded, p.Width, q) {
				t.Fatalf("%s: padding that is not zero was accepted", p.Name)
			}
		}
		if frame.Unpack(make([]uint64, n-1), block, p.Width, q) || frame.Unpack(make([]uint64, n), block[1:], p.Width, q) {
			t.Fatalf("%s: a wrong length was accepted", p.Name)
		}
	}
}

func TestMalformedFramesAreRefused(t *testing.T) {
	p := params.Presets()[1]
	good, want := sample(p, 2, 300)
	one, _ := sample(p, 1, 300)
	put := binary.LittleEndian.PutUint32
	cases := map[string]func() []byte{
		"empty":                     func() []byte { return nil },
		"header only":               func() []byte { return good[:frame.HeaderSize] },
		"part of a header":          func() []byte { return good[:frame.HeaderSize-1] },
		"truncated":                 func() []byte { return good[:len(good)-1] },
		"half":                      func() []byte { return good[:len(good)/2] },
		"extended":                  func() []byte { return append(bytes.Clone(good), 0) },
		"magic":                     edit(good, func(b []byte) { b[0] = 'X' }),
		"version 0":                 edit(good, func(b []byte) { b[4] = 0 }),
		"version 2":                 edit(good, func(b []byte) { b[4] = 2 }),
		"preset 0":                  edit(good, func(b []byte) { b[5] = 0 }),
		"preset 4":                  edit(good, func(b []byte) { b[5] = 4 }),
		"encoding 0":                edit(good, func(b []byte) { b[6] = 0 }),
		"encoding 6":                edit(good, func(b []byte) { b[6] = 6 }),
		"components 0":              edit(good, func(b []byte) { b[7] = 0 }),
		"components 3":              edit(good, func(b []byte) { b[7] = 3 }),
		"components fewer":          edit(good, func(b []byte) { b[7] = 1; put(b[32:], 3) }),
		"terms 0":                   edit(good, func(b []byte) { put(b[28:], 0) }),
		"terms above the limit":     edit(good, func(b []byte) { put(b[28:], params.MaxClients+1); put(b[32:], 1<<20) }),
		"weight below terms":        edit(good, func(b []byte) { put(b[32:], 2) }),
		"weight above terms·255":    edit(good, func(b []byte) { put(b[32:], 3*params.MaxWeight+1) }),
		"weight without components": edit(one, func(b []byte) { put(b[32:], 4) }),
		"coefficients 0":            edit(good, func(b []byte) { put(b[36:], 0) }),
		"coefficients above N":      edit(good, func(b []byte) { put(b[36:], uint32(p.N()+1)) }),
		"coefficients 2^32-1":       edit(good, func(b []byte) { put(b[36:], 1<<32-1) }),
		"a public key of two":       edit(good, func(b []byte) { b[6] = byte(params.PublicKey) }),
		"a short public key":        edit(one, func(b []byte) { b[6] = byte(params.PublicKey); put(b[24:], 0); put(b[28:], 1); put(b[32:], 1) }),
		"first residue":             edit(good, func(b []byte) { copy(b[frame.HeaderSize:], bytes.Repeat([]byte{0xff}, 7)) }),
		"last residue":              edit(good, func(b []byte) { copy(b[len(b)-7:], bytes.Repeat([]byte{0xff}, 7)) }),
		"padding": edit(good, func(b []byte) {
			end := frame.HeaderSize + frame.BlockSize(300, p.Width)
			b[end-1] |= 0x80
		}),
	}
	for name, make := range cases {
		t.Run(name, func(t *testing.T) {
			if err := frame.Check(make(), want); !errors.Is(err, errs.ErrFrame) {
				t.Errorf("%v, want CF_FRAME", err)
			}
		})
	}
}

func edit(good []byte, change func([]byte)) func() []byte {
	return func() []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
}

func TestFramesOfAnotherPlaceAreRefused(t *testing.T) {
	p := params.Presets()[1]
	b, h := sample(p, 2, p.N())
	cases := map[string]func(*frame.Header){
		"key":          func(h *frame.Header) { h.Key[15]++ },
		"chunk":        func(h *frame.Header) { h.Chunk++ },
		"terms":        func(h *frame.Header) { h.Terms++ },
		"weight":       func(h *frame.Header) { h.Weight++ },
		"encoding":     func(h *frame.Header) { h.Encoding = params.Control },
		"preset":       func(h *frame.Header) { h.Preset = params.N8192Q204 },
		"components":   func(h *frame.Header) { h.Components = 1 },
		"coefficients": func(h *frame.Header) { h.Coefficients-- },
	}
	for name, change := range cases {
		want := h
		change(&want)
		if err := frame.Check(b, want); !errors.Is(err, errs.ErrFrameContext) {
			t.Errorf("%s: %v, want CF_FRAME_CONTEXT", name, err)
		}
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	for _, p := range params.Presets() {
		b, h := sample(p, 2, p.N()-3)
		if n := testing.AllocsPerRun(10, func() {
			if err := frame.Check(b, h); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", p.Name, n)
		}
	}
}

func TestGeometryCoversTheUpdate(t *testing.T) {
	for _, p := range params.Presets() {
		for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
			s, err := params.NewScheme(params.Choice{Preset: p.Name, Mode: mode, Bits: 8, Clients: 8, Weight: 1, Rounding: params.Stochastic})
			if err != nil {
				t.Fatal(err)
			}
			full := int64(s.ChunkValues())
			for _, values := range []int64{1, full - 1, full, full + 1, 3*full + 5, params.MaxValues} {
				t.Run(fmt.Sprintf("%s/%v/%d", p.Name, mode, values), func(t *testing.T) {
					g := frame.Geometry{Scheme: s, Values: values, Controls: 4, Key: [16]byte{7}}
					if err := g.Validate(); err != nil {
						t.Fatal(err)
					}
					frames := g.Frames()
					first := 0
					if frames > 1000 { // walk only the end of a huge update
						first = frames - 1000
					}
					for i := first; i < frames; i++ {
						h := g.Header(i)
						if h.Size() != g.FrameSize(i) || g.Offset(i)+int64(h.Size()) != g.Offset(i+1) || int(h.Chunk) != i {
							t.Fatalf("frame %d: header says %d bytes, FrameSize %d, offsets %d to %d", i, h.Size(), g.FrameSize(i), g.Offset(i), g.Offset(i+1))
						}
						if _, err := frame.ParseHeader(h.Append(nil)); err != nil {
							t.Fatal(err)
						}
						if i == g.ControlIndex() {
							if h.Encoding != params.Control || h.Coefficients != 12 {
								t.Fatalf("control chunk: %+v", h)
							}
							continue
						}
						from, to := g.Span(i)
						lanes := int64(h.Coefficients) * int64(s.Lanes)
						if n := to - from; h.Encoding != params.Lanes || n < 1 || n > lanes || lanes-n >= int64(s.Lanes) {
							t.Fatalf("chunk %d: values [%d, %d) in %d coefficients", i, from, to, h.Coefficients)
						}
					}
					if _, to := g.Span(frames - 2); to != values || g.Size() != g.Offset(frames) {
						t.Fatalf("chunks end at value %d of %d", to, values)
					}
				})
			}
		}
	}
}

func TestGeometryRefusesNonsense(t *testing.T) {
	s, err := params.NewScheme(params.Choice{Preset: "n2048-q52", Mode: params.SumKey, Bits: 8, Clients: 8, Weight: 1, Rounding: params.Stochastic})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []frame.Geometry{
		{Values: 1, Controls: 1},
		{Scheme: s, Values: 0, Controls: 1},
		{Scheme: s, Values: -1, Controls: 1},
		{Scheme: s, Values: params.MaxValues + 1, Controls: 1},
		{Scheme: s, Values: 1, Controls: 0},
		{Scheme: s, Values: 1, Controls: 683},
	} {
		if err := g.Validate(); !errors.Is(err, errs.ErrParameters) {
			t.Errorf("%d values, %d controls: %v", g.Values, g.Controls, err)
		}
	}
}

// FuzzCheck: whatever is accepted is what Append and Pack write for its own
// header and residues; everything else is an error, never a panic.
func FuzzCheck(f *testing.F) {
	for _, p := range params.Presets() {
		for _, n := range []int{1, 3, 8, 9} {
			b, _ := sample(p, 1, n)
			f.Add(b)
			f.Add(b[:len(b)-1])
			f.Add(append(b, 0))
		}
		b, _ := sample(p, 2, 5)
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add([]byte("CFF1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := frame.ParseHeader(b)
		if err != nil {
			if !errors.Is(err, errs.ErrFrame) {
				t.Fatalf("%v is not CF_FRAME", err)
			}
			return
		}
		if err := frame.Check(b, h); err != nil {
			if !errors.Is(err, errs.ErrFrame) {
				t.Fatalf("%v is not CF_FRAME", err)
			}
			return
		}
		p, err := params.ByID(h.Preset)
		if err != nil {
			t.Fatal(err)
		}
		again, at := h.Append(nil), frame.HeaderSize
		for c := range int(h.Components) {
			n := int(h.Coefficients)
			if c == 1 {
				n = p.N()
			}
			for _, q := range p.Primes {
				v, size := make([]uint64, n), frame.BlockSize(n, p.Width)
				if !frame.Unpack(v, b[at:at+size], p.Width, q) {
					t.Fatal("Check accepts what Unpack refuses")
				}
				block := make([]byte, size)
				frame.Pack(block, v, p.Width)
				again, at = append(again, block...), at+size
			}
		}
		if !bytes.Equal(again, b) {
			t.Fatal("two byte strings for one ciphertext")
		}
	})
}

// TestAddingIsUnpackingAndAdding for every width and length around a turn,
// also with a residue that is too large.
func TestAddingIsUnpackingAndAdding(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 1))
	for width := 20; width <= 57; width++ {
		q := uint64(1)<<width - 19
		for _, n := range []int{0, 1, 7, 8, 9, 63, 64, 65, 136, 200} {
			for _, spoil := range []bool{false, true} {
				residues, sum := make([]uint64, n), make([]uint64, n)
				for i := range residues {
					residues[i], sum[i] = rng.Uint64N(q), rng.Uint64()
				}
				if spoil && n > 0 {
					residues[rng.IntN(n)] = q + rng.Uint64N(19)
				}
				packed := make([]byte, frame.BlockSize(n, width))
				frame.Pack(packed, residues, width)
				got := slices.Clone(sum)
				if ok := frame.UnpackAdd(got, packed, width, q); ok == (spoil && n > 0) {
					t.Fatalf("%d residues of %d bits: %v", n, width, ok)
				}
				for i, v := range residues {
					if got[i] != sum[i]+v {
						t.Fatalf("%d residues of %d bits: sum %d differs", n, width, i)
					}
				}
				if frame.UnpackAdd(got, append(packed, 0), width, q) {
					t.Fatalf("%d residues of %d bits: a byte too many was taken", n, width)
				}
			}
		}
	}
}
