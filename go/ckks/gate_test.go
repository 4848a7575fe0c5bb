package ckks

import (
	"errors"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// TestNoKeyOutsideTheGate: whoever makes a preset by hand gets no key, no
// encryptor and no decryptor for it.
func TestNoKeyOutsideTheGate(t *testing.T) {
	strong := params.Presets()[1]
	for name, weak := range map[string]params.Preset{
		"a smaller ring":   {ID: 200, Name: "weak", LogN: 11, Primes: strong.Primes, Psi: strong.Psi, Width: 51, Spread: 1},
		"a larger modulus": {ID: 201, Name: "weak", LogN: 12, Primes: append(append([]uint64(nil), strong.Primes...), 2251799812980737), Psi: append(append([]uint64(nil), strong.Psi...), 1), Width: 51, Spread: 1},
		"an unknown ring":  {ID: 202, Name: "weak", LogN: 9, Primes: strong.Primes[:1], Psi: strong.Psi[:1], Width: 51, Spread: 1},
	} {
		if _, _, err := GenerateKeyPair(&weak, testNonce, Seed{1}); !errors.Is(err, errs.ErrInsecure) {
			t.Errorf("%s: a key pair: %v", name, err)
		}
		s := *schemeOf(t, strong.Name, params.SumKey)
		s.Preset = &weak
		if _, err := NewSumKeyEncryptor(&s, testDigest, Seed{1}, Seed{2}, nil); !errors.Is(err, errs.ErrInsecure) {
			t.Errorf("%s: an encryptor: %v", name, err)
		}
		if _, err := NewDecryptor(&s, testDigest, make([]int32, weak.N()), 1, 1, nil); !errors.Is(err, errs.ErrInsecure) {
			t.Errorf("%s: a decryptor: %v", name, err)
		}
	}
}
