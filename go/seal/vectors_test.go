package seal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/encoding"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
)

// testdata/vectors is written by this test with -update and verified by
// testdata/verify.py, which shares no code with these packages.
var update = flag.Bool("update", false, "write testdata/vectors anew")

type object = map[string]any

// vectors compares what the code yields with a file, or writes it.
func vectors(t *testing.T, name, about string, cases []object) {
	t.Helper()
	got, err := json.MarshalIndent(object{"about": about, "cases": cases}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("..", "..", "testdata", "vectors", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs from what the code yields now; wire formats never change within a version", name)
	}
}

func littleEndian[T any](v []T) []byte {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func preset(p *params.Preset) object {
	return object{"name": p.Name, "id": p.ID, "n": p.N(), "width": p.Width, "primes": p.Primes, "psi": p.Psi}
}

func TestExpanderVectors(t *testing.T) {
	var cases []object
	for _, p := range params.Presets() {
		for _, chunk := range []uint32{0, 1, 0x01020304} {
			base := sha256.Sum256([]byte(p.Name))
			a, err := ckks.Public(p, base, chunk)
			if err != nil {
				t.Fatal(err)
			}
			for j := range a {
				cases = append(cases, object{
					"preset": preset(p), "key_base": hex.EncodeToString(base[:]), "chunk": chunk, "prime": j,
					"first": a[j][:4], "last": a[j][p.N()-1], "sha256_of_le64": digest(littleEndian(a[j])),
				})
			}
		}
	}
	vectors(t, "expander.json", "public polynomials a_{chunk,j}: docs/spec.md §2.2", cases)
}

func TestSamplerVectors(t *testing.T) {
	var cases []object
	for _, p := range params.Presets() {
		for k := range 2 {
			spec, key := sha256.Sum256([]byte{1, byte(k)}), seed(uint64(50+k))
			s, err := ckks.SumSecrets(p, spec, []ckks.Seed{key})
			if err != nil {
				t.Fatal(err)
			}
			cases = append(cases, object{
				"preset": preset(p), "spec_digest": hex.EncodeToString(spec[:]), "key_seed": hex.EncodeToString(key[:]),
				"first": s[:16], "sha256_of_le32": digest(littleEndian(s)),
			})
		}
	}
	vectors(t, "sampler.json", "secret polynomials expanded from a key seed: docs/spec.md §2.3", cases)
}

func TestLanesVectors(t *testing.T) {
	var cases []object
	x := []float32{0, 1, -1, 0.5, -0.5, 0.1, -0.1, 0.25, 3, -3, 1e-30, -1e-30, 0.0078125, -0.0078125, 0.3, 0.7, -0.2999, 2e38, -2e38}
	for _, p := range params.Presets() {
		for _, bits := range []int{8, 16, 24} {
			for _, rounding := range []params.Rounding{params.Stochastic, params.NearestEven} {
				s := choice(p.Name, params.SumKey, bits, 5, 1, rounding)
				l, err := encoding.NewLanes(s, []encoding.Tensor{{Count: 7, Range: 1}, {Count: 12, Range: 0.3}})
				if err != nil {
					t.Fatal(err)
				}
				weight, cap := 3, 7
				factor := float64(weight) / float64(cap)
				rho := make([]byte, 4*len(x))
				for i := range rho {
					rho[i] = byte(37*i + 11)
				}
				words := make([][]uint64, len(p.Primes))
				for w := range words {
					words[w] = make([]uint64, p.N())
				}
				n := l.Encode(words, x, 0, factor, rho)
				seen := make([]encoding.Seen, 2)
				l.Scan(x, 0, factor, seen)
				clipped := []uint64{seen[0].Clipped, seen[1].Clipped}
				var coefficients []string
				for i := range n {
					text := ""
					for w := len(words) - 1; w >= 0; w-- {
						text += fmt.Sprintf("%016x", words[w][i])
					}
					coefficients = append(coefficients, text)
				}
				cases = append(cases, object{
					"preset": preset(p), "bits": bits, "clients": 5, "rounding": rounding.String(),
					"lanes": s.Lanes, "lane_width": s.LaneWidth(), "log_delta": s.LogDelta,
					"tensors": []object{{"count": 7, "range": hexOf(1)}, {"count": 12, "range": hexOf(0.3)}},
					"weight":  weight, "weight_cap": cap, "values": hexAll(x), "rho": hex.EncodeToString(rho),
					"coefficients": coefficients, "clipped": clipped,
				})
			}
		}
	}
	vectors(t, "lanes.json", "values to plaintext coefficients: docs/spec.md §5; float32 as big-endian hex of their bits", cases)
}

func hexOf(x float32) string { return fmt.Sprintf("%08x", math.Float32bits(x)) }

func hexAll(x []float32) []string {
	out := make([]string, len(x))
	for i, v := range x {
		out[i] = hexOf(v)
	}
	return out
}

// smallFrame is a frame of few residues, by hand.
func smallFrame(p *params.Preset, residues [][]uint64, h frame.Header) []byte {
	b := h.Append(nil)
	for _, v := range residues {
		block := make([]byte, frame.BlockSize(len(v), p.Width))
		frame.Pack(block, v, p.Width)
		b = append(b, block...)
	}
	return b
}

func TestFrameVectors(t *testing.T) {
	var cases, malformed []object
	for _, p := range params.Presets() {
		for _, n := range []int{1, 3, 8, 11} {
			h := frame.Header{Preset: p.ID, Encoding: params.Lanes, Components: 1, Key: [16]byte{0xaa, 1, 2}, Chunk: 0x01020304, Terms: 5, Weight: 5, Coefficients: uint32(n)}
			residues := make([][]uint64, len(p.Primes))
			for j, q := range p.Primes {
				for i := range n {
					residues[j] = append(residues[j], (q-1)/uint64(i+1)-uint64(j))
				}
			}
			b := smallFrame(p, residues, h)
			if err := frame.Check(b, h); err != nil {
				t.Fatal(err)
			}
			cases = append(cases, object{
				"preset": preset(p), "encoding": h.Encoding, "components": 1, "key": hex.EncodeToString(h.Key[:]), "chunk": h.Chunk,
				"terms": h.Terms, "weight": h.Weight, "coefficients": n, "residues": residues, "frame": hex.EncodeToString(b),
			})
			if n != 3 {
				continue
			}
			end := frame.HeaderSize + frame.BlockSize(n, p.Width) - 1
			bend := func(why string, change func([]byte) []byte) {
				bad := change(bytes.Clone(b))
				if err := frame.Check(bad, h); !errors.Is(err, errs.ErrFrame) {
					t.Errorf("%s: %v", why, err)
				}
				malformed = append(malformed, object{"why": why, "frame": hex.EncodeToString(bad)})
			}
			set := func(at int, v byte) func([]byte) []byte {
				return func(b []byte) []byte { b[at] = v; return b }
			}
			bend("magic", set(0, 'X'))
			bend("version", set(4, 2))
			bend("preset", set(5, 9))
			bend("encoding", set(6, 0))
			bend("components 0", set(7, 0))
			bend("components 2 of the length of 1", set(7, 2))
			bend("terms 0", set(28, 0))
			bend("terms above 4096", set(30, 1))
			bend("weight not terms", set(32, 6))
			bend("coefficients 0", set(36, 0))
			bend("coefficients above the length", set(36, 4))
			bend("coefficients above N", set(38, 1))
			bend("truncated", func(b []byte) []byte { return b[:len(b)-1] })
			bend("extended", func(b []byte) []byte { return append(b, 0) })
			bend("header only", func(b []byte) []byte { return b[:frame.HeaderSize] })
			bend("part of a header", func(b []byte) []byte { return b[:17] })
			bend("empty", func([]byte) []byte { return nil })
			bend("padding", func(b []byte) []byte { b[end] |= 0x80; return b })
			bend("residue equal to its prime", func([]byte) []byte {
				over := append([][]uint64{append([]uint64{p.Primes[0]}, residues[0][1:]...)}, residues[1:]...)
				return smallFrame(p, over, h)
			})
			bend("a lone public key component of 3 coefficients", set(6, 3))
		}
	}
	vectors(t, "frames.json", "headers and residues as bytes: docs/spec.md §6", cases)
	vectors(t, "malformed.json", "byte strings that are no frames: docs/spec.md §6", malformed)
}

// TestRoundVectors is whole rounds of three clients: everything from seeds and
// values to frames, the sum and the mean.
func TestRoundVectors(t *testing.T) {
	var cases []object
	for _, p := range params.Presets() {
		for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
			weight, bits := 1, 12
			if mode == params.SharedKey {
				weight = 10
			}
			if p.ID == params.N2048Q52 {
				bits = 8
			}
			s := choice(p.Name, mode, bits, 3, weight, params.Stochastic)
			c := &cohort{weights: []uint32{2, 1, 9}}
			c.round, c.secret = roundOf(t, s, [2]int64{13, 4}, 10)
			var clients []object
			for i := range c.weights {
				var x []float32
				for v := range c.round.Values() {
					x = append(x, float32(math.Sin(float64(17*i+int(v)))*0.7))
				}
				c.updates = append(c.updates, x)
			}
			c.seal(t, 2)
			for i := range c.weights {
				secrets := secretsOf(i)
				one := object{
					"key_seed": hex.EncodeToString(secrets.Key[:]), "noise_seed": hex.EncodeToString(secrets.Noise[:]),
					"num_examples": c.numExamples(i), "public_weight": c.publicWeight(i), "values": hexAll(c.updates[i]),
					"client": clientName(i), "metrics": c.metrics(i),
				}
				one["frames"] = short(c.frames[i])
				clients = append(clients, one)
			}
			result := c.fold(t)
			rel := c.release(t)
			mean := c.open(t, result, 1)
			c.compare(t, mean)
			o, err := seal.NewOpener(c.round, rel, 1)
			if err != nil {
				t.Fatal(err)
			}
			controls, err := o.OpenControl(result[len(result)-1])
			if err != nil {
				t.Fatal(err)
			}
			one := object{
				"preset": preset(p), "mode": mode.String(), "bits": bits, "max_clients": 3, "max_weight": weight, "rounding": "stochastic",
				"lanes": s.Lanes, "lane_width": s.LaneWidth(), "log_delta": s.LogDelta, "noise_bound": s.NoiseBound(rel.Squares),
				"spec_digest": hex.EncodeToString(c.round.SpecDigest[:]), "weight_cap": c.round.WeightCap, "metrics": c.round.Metrics, "tag_key": hex.EncodeToString(c.round.Tag[:]),
				"tensors": []object{{"count": 13, "range": hexOf(0.5)}, {"count": 4, "range": hexOf(2)}},
				"clients": clients, "sum": short(result), "weight_sum": rel.WeightSum, "squares": rel.Squares,
				"controls": controls, "mean_metrics": o.Metrics(controls), "mean": hexAll(mean), "secret_sha256_of_le32": digest(littleEndian(rel.Secret)),
			}
			if mode == params.SharedKey {
				key := seed(1000)
				one["nonce"], one["round_key_seed"] = hex.EncodeToString(c.round.Nonce[:]), hex.EncodeToString(key[:])
				one["public_key_sha256"] = digest(c.round.PublicKey)
			}
			cases = append(cases, one)
		}
	}
	vectors(t, "rounds.json", "rounds of three clients, from seeds and values to the mean: docs/spec.md; frames above 4 KiB as sha256", cases)
}

// short shows frames as hex, long ones as their hash.
func short(frames [][]byte) []string {
	out := make([]string, len(frames))
	for i, f := range frames {
		if out[i] = hex.EncodeToString(f); len(f) > 4096 {
			out[i] = "sha256:" + digest(f)
		}
	}
	return out
}

// TestSlotsVectors is the embedding of one chunk of values, and a round of two
// clients in each ring.
func TestSlotsVectors(t *testing.T) {
	var cases []object
	for _, p := range params.Presets()[:1] {
		for _, e := range []params.Encoding{params.Slots, params.SlotsReal} {
			s := slotsScheme(p.Name, params.SharedKey, e, 8, 2, 1, params.NearestEven)
			c := &cohort{weights: []uint32{1, 1}}
			c.round, c.secret = roundOf(t, s, [2]int64{9, 4}, 1)
			for i := range c.weights {
				var x []float32
				for v := range c.round.Values() {
					x = append(x, float32(math.Sin(float64(17*i+int(v)))*0.4))
				}
				c.updates = append(c.updates, x)
			}
			c.seal(t, 1)
			result := c.fold(t)
			o, err := seal.NewOpener(c.round, c.release(t), 1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.OpenControl(result[1]); err != nil {
				t.Fatal(err)
			}
			cases = append(cases, object{
				"preset": preset(p), "encoding": e.String(), "id": e, "bits": s.Bits, "half": s.SlotHalf(), "lane_width": s.LaneWidth(), "log_delta": s.LogDelta,
				"spec_digest": hex.EncodeToString(c.round.SpecDigest[:]), "nonce": hex.EncodeToString(c.round.Nonce[:]),
				"tensors":        []object{{"count": 9, "range": hexOf(0.5)}, {"count": 4, "range": hexOf(2)}},
				"values":         [][]string{hexAll(c.updates[0]), hexAll(c.updates[1])},
				"round_key_seed": hex.EncodeToString(func() []byte { k := seed(1000); return k[:] }()),
				"sum":            hex.EncodeToString(result[0]), "mean": hexAll(c.open(t, result, 1)),
			})
		}
	}
	vectors(t, "slots.json", "sums of two clients in CKKS slots, opened from the key seed: docs/spec.md §5.5", cases)
}
