package seal_test

import (
	"fmt"
	"testing"

	"github.com/cryptflow/cryptflow/go/encoding"
	"github.com/cryptflow/cryptflow/go/params"
)

// TestDigitVectors: values of an ordinary and two precise tensors as all
// integers that travel, and the means that the sums of two clients open to.
func TestDigitVectors(t *testing.T) {
	x := [][]float32{
		{0.25, 1, -1, 1e-6, -3e-6, 0.1, 3, -3e38, 1e-30, 0.7, -0.2999, 1e-9, 0.3},
		{-0.5, 2, 1, 2e-6, -3e-6, -0.1, 3, 1e-7, -1e-30, 0.7, 0.2, 4e-9, -0.1},
	}
	var cases []object
	for _, bits := range []int{4, 8, 16, 24, 30} {
		s := choice("n8192-q204", params.SumKey, bits, 5, 1, params.NearestEven)
		tensors := []encoding.Tensor{
			{Count: 2, Range: 2}, {Count: 7, Range: 1.5, Precise: true}, {Count: 4, Range: 0.3, Precise: true},
		}
		l, err := encoding.NewLanes(s, tensors)
		if err != nil {
			t.Fatal(err)
		}
		weights, limit := []int{3, 5}, 7
		sums, one := make([]float64, l.Sealed()), make([]float64, l.Sealed())
		var integers [][]uint64
		for i, values := range x {
			factor := float64(weights[i]) / float64(limit)
			digits := make([]uint32, l.Sealed()-l.Values())
			if err := l.Precise(func(from, to int64) error {
				l.Split(digits, values[from:to], from, factor)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			words := make([][]uint64, len(s.Primes))
			for w := range words {
				words[w] = make([]uint64, s.N())
			}
			l.EncodeWith(words, values, digits, 0, factor, nil)
			l.Sums(one, words, 0, 1)
			row := make([]uint64, len(one))
			for k, v := range one {
				sums[k] += v
				row[k] = uint64(int64(v) + s.Half())
			}
			integers = append(integers, row)
		}
		divisor := float64(weights[0]+weights[1]) / float64(limit)
		mean := make([]float32, l.Values())
		if err := l.Precise(func(from, to int64) error {
			l.Join(mean[from:to], sums[from:to], sums[l.Values():], from, divisor)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		list := []object{}
		for _, k := range tensors {
			list = append(list, object{"count": k.Count, "range": hexOf(k.Range), "precise": k.Precise})
		}
		values := []any{}
		for _, v := range x {
			values = append(values, hexAll(v))
		}
		cases = append(cases, object{
			"bits": bits, "digits": s.Digits(), "tensors": list, "weights": weights, "weight_cap": limit, "values": values,
			"integers": integers, "mean": hexAll(mean[2:]), "about_mean": fmt.Sprint("of the precise tensors, of ", len(x), " clients"),
		})
	}
	vectors(t, "digits.json", "precise tensors, rounding nearest: docs/spec.md §5.6; float32 as big-endian hex of their bits", cases)
}
