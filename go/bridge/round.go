//go:build cgo

package bridge

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/encoding"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
)

// round is what RoundNew makes: the geometry and identity of raw operations.
type round struct{ seal.Round }

// key is a client's secrets (sum-key) or a round's key pair (shared-key).
type key struct {
	mu      sync.Mutex
	secrets seal.Secrets
	leaves  [][sha256.Size]byte // of the one update encrypted under it

	nonce  [32]byte
	secret []int32
	public []byte
}

type roundRequest struct {
	Mode      string `json:"mode"`
	Preset    string `json:"preset"`
	Rounding  string `json:"rounding"`
	Encoding  string `json:"encoding"`
	Bits      int    `json:"bits"`
	Clients   int    `json:"clients"`
	WeightCap uint32 `json:"weight_cap"`
	Digest    string `json:"digest"`
	Tensors   []struct {
		Name  string  `json:"name"`
		Count int64   `json:"count"`
		Range float32 `json:"range"`
	} `json:"tensors"`
}

// RoundNew makes a round from a JSON object: mode, preset, rounding, bits,
// clients, weight_cap, digest (64 hexadecimal digits, drawn when empty),
// tensors of {name, count, range}.
func RoundNew(request string) (int64, error) {
	return guard(func() (int64, error) {
		var q roundRequest
		if err := decode("round", request, &q); err != nil {
			return 0, err
		}
		r, err := newRound(&q)
		if err != nil {
			return 0, err
		}
		return store(r), nil
	})
}

func newRound(q *roundRequest) (*round, error) {
	mode, err := params.ParseMode(q.Mode)
	if err != nil {
		return nil, err
	}
	rounding, err := params.ParseRounding(q.Rounding)
	if err != nil {
		return nil, err
	}
	encoded, err := params.ParseEncoding(cmp.Or(q.Encoding, params.Lanes.String()))
	if err != nil {
		return nil, err
	}
	public := 1
	if mode == params.SharedKey {
		public = int(min(q.WeightCap, 1<<16))
	}
	scheme, err := params.NewScheme(params.Choice{
		Preset: q.Preset, Mode: mode, Bits: q.Bits, Clients: q.Clients, Weight: public, Rounding: rounding, Encoding: encoded,
	})
	if err != nil {
		return nil, err
	}
	r := &round{seal.Round{Scheme: scheme, WeightCap: q.WeightCap}}
	if q.Digest == "" {
		_, err = rand.Read(r.SpecDigest[:])
	} else if n, bad := hex.Decode(r.SpecDigest[:], []byte(q.Digest[:min(len(q.Digest), 64)])); bad != nil || n != 32 || len(q.Digest) != 64 {
		err = fmt.Errorf("a digest has 64 hexadecimal digits: %w", errs.ErrArgument)
	}
	if err != nil {
		return nil, err
	}
	for _, t := range q.Tensors {
		r.Tensors = append(r.Tensors, seal.Tensor{Name: t.Name, Count: t.Count, Range: t.Range})
	}
	if _, err := encoding.NewLanes(scheme, lanesOf(r.Tensors)); err != nil {
		return nil, err
	}
	return r, r.Geometry().Validate()
}

func lanesOf(tensors []seal.Tensor) []encoding.Tensor {
	out := make([]encoding.Tensor, len(tensors))
	for i, t := range tensors {
		out[i] = encoding.Tensor{Count: t.Count, Range: t.Range}
	}
	return out
}

// RoundInfo describes a round as JSON.
func RoundInfo(handle int64) (string, error) {
	return guard(func() (string, error) {
		r, err := lookup[*round](handle)
		if err != nil {
			return "", err
		}
		g, s := r.Geometry(), r.Scheme
		b, err := json.Marshal(map[string]any{
			"digest": hex.EncodeToString(r.SpecDigest[:]), "mode": s.Mode.String(), "preset": s.Name,
			"rounding": s.Rounding.String(), "encoding": s.Encoding.String(), "bits": s.Bits, "clients": s.Clients, "lanes": s.Lanes,
			"headroom": s.Headroom, "delta_bits": s.LogDelta, "components": s.Components,
			"weight_cap": r.WeightCap, "public_weight_cap": s.Weight, "half": s.Half(),
			"values": g.Values, "frames": g.Frames(), "bytes": g.Size(), "chunk_values": s.ChunkValues(),
		})
		return string(b), err
	})
}

// KeyNew draws a client's secrets in sum-key, a key pair in shared-key.
func KeyNew(handle int64) (int64, error) {
	return guard(func() (int64, error) {
		r, err := lookup[*round](handle)
		if err != nil {
			return 0, err
		}
		k := &key{}
		if r.Scheme.Mode == params.SumKey {
			k.secrets, err = seal.NewSecrets()
		} else {
			var seed ckks.Seed
			if _, err = rand.Read(k.nonce[:]); err != nil {
				return 0, err
			}
			if seed, err = ckks.NewSeed(); err != nil {
				return 0, err
			}
			k.secret, k.public, err = ckks.GenerateKeyPair(r.Scheme.Preset, k.nonce, seed)
		}
		if err != nil {
			return 0, err
		}
		return store(k), nil
	})
}

type releaseRequest struct {
	Keys    []int64  `json:"keys"`
	Weights []uint32 `json:"weights"`
}

// ReleaseNew makes what opens the sum of one set of contributions, from a JSON
// object: keys (handles: every client's in sum-key, the one pair in
// shared-key) and the contributions' public weights.
func ReleaseNew(handle int64, request string) (int64, error) {
	return guard(func() (int64, error) {
		r, err := lookup[*round](handle)
		if err != nil {
			return 0, err
		}
		var q releaseRequest
		if err := decode("release", request, &q); err != nil {
			return 0, err
		}
		rel := &seal.Release{}
		for _, w := range q.Weights {
			rel.Terms++
			rel.WeightSum += w
			rel.Squares += uint64(w) * uint64(w)
		}
		keys := make([]*key, len(q.Keys))
		for i, id := range q.Keys {
			if keys[i], err = lookup[*key](id); err != nil {
				return 0, err
			}
		}
		if r.Scheme.Mode == params.SharedKey {
			if len(keys) != 1 || keys[0].secret == nil {
				return 0, fmt.Errorf("shared-key releases the one secret of a pair: %w", errs.ErrArgument)
			}
			rel.Secret = keys[0].secret
			return store(rel), nil
		}
		if len(keys) != len(q.Weights) {
			return 0, fmt.Errorf("%d keys for %d contributions: %w", len(keys), len(q.Weights), errs.ErrArgument)
		}
		seeds := make([]ckks.Seed, len(keys))
		for i, k := range keys {
			seeds[i] = k.secrets.Key
		}
		rel.Secret, err = ckks.SumSecrets(r.Scheme.Preset, r.SpecDigest, seeds)
		clear(seeds)
		if err != nil {
			return 0, err
		}
		return store(rel), nil
	})
}
