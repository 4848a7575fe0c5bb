//go:build cgo

package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/seal"
)

// sealing is one update on its way into frames.
type sealing struct {
	mu     sync.Mutex
	key    *key
	sealer *seal.Sealer
	values *arrowio.Float32
	next   int
}

func (s *sealing) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values != nil {
		s.values.Release()
		s.values = nil
	}
}

func threads(n int64) int {
	if n <= 0 {
		return runtime.GOMAXPROCS(0)
	}
	return int(min(n, 1<<10))
}

// SealerNew takes an update, float32, to be encrypted under a key by SealNext.
// The values are read in place until Close.
func SealerNew(handle, keyHandle, weight, workers int64, inArr, inSch uintptr) (int64, error) {
	return guard(func() (int64, error) {
		r, err := lookup[*round](handle)
		if err != nil {
			return 0, err
		}
		k, err := lookup[*key](keyHandle)
		if err != nil {
			return 0, err
		}
		if weight < 1 || weight > int64(r.WeightCap) {
			return 0, fmt.Errorf("num_examples is %d; the task allows 1 to %d: %w", weight, r.WeightCap, errs.ErrWeight)
		}
		in, err := arrowio.ImportFloat32(inArr, inSch)
		if err != nil {
			return 0, err
		}
		s := &sealing{key: k, values: in}
		full, secrets := r.Round, k.secrets
		if r.Scheme.Mode == params.SharedKey {
			full.Nonce, full.PublicKey = k.nonce, k.public
			// The key is the round's: every update draws noise of its own.
			secrets, err = seal.NewSecrets()
		}
		if err == nil {
			s.sealer, err = seal.NewSealer(full, secrets, in.Float32Values(), uint32(weight), threads(workers))
		}
		if err != nil {
			s.close()
			return 0, err
		}
		return store(s), nil
	})
}

// SealClipped lists as JSON how many values of each tensor lie outside its
// range.
func SealClipped(handle int64) (string, error) {
	return guard(func() (string, error) {
		s, err := lookup[*sealing](handle)
		if err != nil {
			return "", err
		}
		b, err := json.Marshal(s.sealer.Clipped())
		return string(b), err
	})
}

// SealNext writes up to count more frames, large_binary, to the output structs
// and returns how many frames remain.
func SealNext(handle, count int64, outArr, outSch uintptr) (int64, error) {
	return guard(func() (int64, error) {
		s, err := lookup[*sealing](handle)
		if err != nil {
			return 0, err
		}
		if err := arrowio.CheckOut(outArr, outSch); err != nil {
			return 0, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		g := s.sealer.Geometry()
		to := int(min(int64(s.next)+count, int64(g.Frames())))
		if s.values == nil || to <= s.next {
			return 0, fmt.Errorf("every frame was made: %w", errs.ErrState)
		}
		out, err := arrowio.NewBinary(sizes(g, s.next, to), func(room []byte) error {
			return s.sealer.SealInto(context.Background(), s.next, to, room)
		})
		if err != nil {
			return 0, err
		}
		defer out.Release()
		if err := s.key.claim(s.sealer, s.next, to); err != nil {
			return 0, err
		}
		s.next = to
		return int64(g.Frames() - to), arrowio.Export(out, outArr, outSch)
	})
}

// claim binds the key to the frames [from, to) just sealed, before they leave:
// another update under the same secrets would reveal the difference of the
// two. In shared-key every update has noise of its own.
func (k *key) claim(s *seal.Sealer, from, to int) error {
	if k.secret != nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := from; i < to; i++ {
		leaf, _ := s.Leaf(i)
		switch {
		case i == len(k.leaves):
			k.leaves = append(k.leaves, leaf)
		case i > len(k.leaves) || k.leaves[i] != leaf:
			return fmt.Errorf("the key has encrypted another update; draw a new one: %w", errs.ErrContribution)
		}
	}
	return nil
}
