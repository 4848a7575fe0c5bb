package ckks

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cryptflow/cryptflow/go/params"
)

var update = flag.Bool("update", false, "write testdata/vectors/streams.json anew")

// TestStreamVectors: samples of fixed randomness, and every stream of a key
// and a noise seed. verify.py computes them anew from docs/spec.md §2.
func TestStreamVectors(t *testing.T) {
	type object = map[string]any
	var words []string
	var stream []byte
	put := func(w uint64) {
		words = append(words, fmt.Sprintf("%016x", w))
		stream = binary.LittleEndian.AppendUint64(stream, w)
	}
	for _, sign := range []uint64{0, 1 << 63} {
		for _, v := range thresholds {
			put(sign | (v - 1))
			put(sign | v)
		}
		put(sign)
		put(sign | (1<<63 - 1))
	}
	samples := make([]int32, len(words))
	gaussian(samples, stream)

	p := params.Presets()[0]
	var cases []object
	for _, c := range []struct {
		name    string
		tag     string
		purpose uint32
		chunk   uint32
	}{
		{"secret", tagKey, purposeSecret, 0}, {"error of a public key", tagKey, purposeKeyError, 0},
		{"error", tagNoise, purposeError, 0x01020304}, {"second error", tagNoise, purposeError1, 1}, {"ephemeral secret", tagNoise, purposeEphemeral, 1<<32 - 1},
	} {
		seed := Seed(sha256.Sum256([]byte(c.name)))
		key := derive(c.tag, seed[:], testDigest[:])
		k, err := newKeystream(key[:])
		if err != nil {
			t.Fatal(err)
		}
		out := make([]int32, p.N())
		gaussian(out, k.fill(make([]byte, 8*p.N()+tail), 8*p.N(), c.chunk, 0, c.purpose))
		var raw []byte
		for _, v := range out {
			raw = binary.LittleEndian.AppendUint32(raw, uint32(v))
		}
		digest := sha256.Sum256(raw)
		cases = append(cases, object{
			"stream": c.name, "tag": c.tag, "purpose": c.purpose, "chunk": c.chunk, "seed": hex.EncodeToString(seed[:]), "base": hex.EncodeToString(testDigest[:]),
			"samples": p.N(), "first": out[:16], "sha256_of_le32": hex.EncodeToString(digest[:]),
		})
	}
	s := schemeOf(t, p.Name, params.SumKey)
	noise := Seed(sha256.Sum256([]byte("rounding")))
	e, err := NewSumKeyEncryptor(s, testDigest, Seed{1}, noise, nil)
	if err != nil {
		t.Fatal(err)
	}
	rounding := e.Rounding(7, 1000)
	got, err := json.MarshalIndent(object{
		"about":    "samples of given words, and streams expanded from seeds: docs/spec.md §§2.1, 2.3, 2.4",
		"fixed":    object{"words": words, "samples": samples},
		"cases":    cases,
		"rounding": object{"seed": hex.EncodeToString(noise[:]), "base": hex.EncodeToString(testDigest[:]), "chunk": 7, "words": 1000, "first": hex.EncodeToString(rounding[:32]), "sha256": fmt.Sprintf("%x", sha256.Sum256(rounding))},
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("..", "..", "testdata", "vectors", "streams.json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s differs from what the code yields now, %v; wire formats never change within a version", path, err)
	}
}
