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

// pieces is how many parts the values are scanned in, by thread: threads that
// begin late, because their core slept, leave more of them to others.
const pieces = 4

// prepare scans the values and makes the hasher and the first worker, at the
// same time where there are threads for it: for an update of a million values
// that takes a good part of what its encryption takes on all cores.
func (s *Sealer) prepare(secrets Secrets, threads int) error {
	found := make([]scanned, pieces*threads)
	var encryptor *ckks.Encryptor
	functions := []func() error{func() (err error) {
		encryptor, err = newEncryptor(s.round, secrets, runner(threads))
		return err
	}, func() error {
		s.hasher = s.round.hasher()
		return nil
	}}
	for i := range found {
		from, to := len(s.values)*i/len(found), len(s.values)*(i+1)/len(found)
		functions = append(functions, func() error {
			found[i] = s.scan(from, to)
			return nil
		})
	}
	if err := together(threads, functions...); err != nil {
		return err
	}
	if err := s.join(found); err != nil {
		return err
	}
	if err := s.split(threads); err != nil {
		return err
	}
	s.workers = make([]*sealWorker, threads)
	s.workers[0] = newSealWorker(s.round, encryptor)
	return nil
}

// worker is worker k, made when it is first needed. Each k is asked for on one
// goroutine at a time.
func (s *Sealer) worker(k int) *sealWorker {
	if s.workers[k] == nil {
		s.workers[k] = newSealWorker(s.round, s.workers[0].encryptor.Fork())
	}
	return s.workers[k]
}

// together runs functions on up to the given number of threads and returns the
// error of the first that failed.
func together(threads int, functions ...func() error) error {
	return spread.Over(context.Background(), threads, len(functions), func(_, k int) error { return functions[k]() })
}

// runner runs what a key needs on up to the given number of threads.
func runner(threads int) ckks.Runner {
	return func(n int, do func(int)) error {
		return spread.Over(context.Background(), threads, n, func(_, k int) error {
			do(k)
			return nil
		})
	}
}

func newEncryptor(r Round, secrets Secrets, run ckks.Runner) (*ckks.Encryptor, error) {
	if r.Scheme.Mode == params.SumKey {
		return ckks.NewSumKeyEncryptor(r.Scheme, r.SpecDigest, secrets.Key, secrets.Noise, run)
	}
	return ckks.NewPublicKeyEncryptor(r.Scheme, r.SpecDigest, r.Nonce, r.PublicKey, secrets.Noise, run)
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
