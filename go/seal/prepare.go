package seal

import (
	"context"
	"fmt"

	"github.com/cryptflow/cryptflow/go/ckks"
	"github.com/cryptflow/cryptflow/go/encoding"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/spread"
)

// prepare scans the values and makes the hasher and the workers, at the same
// time where there are threads for it: for an update of a million values each
// takes a good part of what its encryption takes on all cores.
func (s *Sealer) prepare(secrets Secrets, threads int) error {
	var encryptor *ckks.Encryptor
	found := make([]scanned, threads)
	pieces := []func() error{func() (err error) {
		encryptor, err = newEncryptor(s.round, secrets)
		return err
	}, func() error {
		s.hasher = s.round.hasher()
		return nil
	}}
	for i := range found {
		from, to := len(s.values)*i/threads, len(s.values)*(i+1)/threads
		pieces = append(pieces, func() error {
			found[i] = s.scan(from, to)
			return nil
		})
	}
	if err := together(threads, pieces...); err != nil {
		return err
	}
	if err := s.join(found); err != nil {
		return err
	}
	for k := range threads {
		if k > 0 {
			encryptor = encryptor.Fork()
		}
		s.workers = append(s.workers, newSealWorker(s.round, encryptor))
	}
	return nil
}

// together runs functions on up to the given number of threads and returns the
// error of the first that failed.
func together(threads int, functions ...func() error) error {
	return spread.Over(context.Background(), threads, len(functions), func(_, k int) error { return functions[k]() })
}

func newEncryptor(r Round, secrets Secrets) (*ckks.Encryptor, error) {
	if r.Scheme.Mode == params.SumKey {
		return ckks.NewSumKeyEncryptor(r.Scheme, r.SpecDigest, secrets.Key, secrets.Noise)
	}
	return ckks.NewPublicKeyEncryptor(r.Scheme, r.SpecDigest, r.Nonce, r.PublicKey, secrets.Noise)
}

// scanned is what a part of the values holds: by tensor, and the tensor with
// a value that is not finite, or -1.
type scanned struct {
	seen []encoding.Seen
	bad  int
}

// scan looks for values that are not finite, counts what will be clipped and
// notes the largest magnitudes.
func (s *Sealer) scan(from, to int) scanned {
	out := scanned{seen: make([]encoding.Seen, len(s.round.Tensors))}
	out.bad = s.lanes.Scan(s.values[from:to], int64(from), s.factor, out.seen)
	return out
}

// join puts what was found in all parts together.
func (s *Sealer) join(parts []scanned) error {
	s.clipped, s.largest = make([]uint64, len(s.round.Tensors)), make([]float32, len(s.round.Tensors))
	for _, part := range parts {
		if part.bad >= 0 {
			return fmt.Errorf("tensor %q holds NaN or an infinity: %w", s.round.Tensors[part.bad].Name, errs.ErrNotFinite)
		}
		for k, seen := range part.seen {
			s.clipped[k] += seen.Clipped
			s.largest[k] = max(s.largest[k], seen.Largest)
		}
	}
	return nil
}
