package params

import (
	"fmt"
	"math/big"

	"github.com/cryptflow/cryptflow/go/errs"
)

// SecurityBits is the classical security level that the gate enforces.
const SecurityBits = 128

// MinSigma is the narrowest Gaussian the gate accepts: the tables assume 3.19,
// and conditioning on the sum of two honest clients' secrets costs a factor √2.
const MinSigma = 3.19 * 1.4142135623730951

// Secret names a distribution of secret keys.
type Secret uint8

// Secret distributions. The zero value is invalid.
const (
	GaussianSecret Secret = 1
	TernarySecret  Secret = 2
)

// MaxLogQ returns the largest bit length of the modulus that the published
// table allows for ring degree 2^logN at 128-bit classical security, or 0 when
// the table has no row.
func MaxLogQ(logN int, s Secret) int {
	gaussian := map[int]int{10: 28, 11: 55, 12: 108, 13: 216, 14: 432}
	ternary := map[int]int{10: 26, 11: 53, 12: 106, 13: 214, 14: 430}
	switch s {
	case GaussianSecret:
		return gaussian[logN]
	case TernarySecret:
		return ternary[logN]
	}
	return 0
}

// CheckSecurity refuses every combination outside the tables of ePrint
// 2024/463. Ternary secrets are refused whatever the modulus: a sum of two
// reveals 2/9 of their coefficients.
func CheckSecurity(logN int, s Secret, sigma float64, q *big.Int) error {
	if s != GaussianSecret {
		return fmt.Errorf("secrets must be discrete Gaussian: %w", errs.ErrInsecure)
	}
	if !(sigma >= MinSigma) {
		return fmt.Errorf("noise width %.3f is below %.3f: %w", sigma, MinSigma, errs.ErrInsecure)
	}
	limit := MaxLogQ(logN, s)
	if limit == 0 {
		return fmt.Errorf("no published limit for ring degree 2^%d: %w", logN, errs.ErrInsecure)
	}
	if q.Sign() <= 0 || q.BitLen() > limit {
		return fmt.Errorf("a modulus of %d bits exceeds %d, the limit for ring degree 2^%d: %w", q.BitLen(), limit, logN, errs.ErrInsecure)
	}
	return nil
}
