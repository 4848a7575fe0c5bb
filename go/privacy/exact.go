package privacy

import "math/big"

// decide is accept without rounding: it compares a uniform number, of which
// the first 53 bits are given and others drawn as needed, with
// 2^v·exp(−x²/2σ²), in intervals that shrink until they are apart. They part
// with probability 1 − 2^-k after k more bits.
func decide(x, v, variance, first uint64, more *words) bool {
	drawn, count := new(big.Int).SetUint64(first), uint(53)
	square := new(big.Int).SetUint64(x)
	square.Mul(square, square)
	twice := new(big.Int).SetUint64(variance)
	twice.Lsh(twice, 1)
	for more.err == nil {
		for range 2 {
			drawn.Lsh(drawn, 64).Or(drawn, new(big.Int).SetUint64(more.next()))
			count += 64
		}
		precision := count + 64
		p := exponential(square, twice, precision)
		p.SetMantExp(p, int(v))
		slack := new(big.Float).SetMantExp(p, -int(precision))
		low := new(big.Float).SetPrec(precision+64).Sub(p, slack)
		high := new(big.Float).SetPrec(precision+64).Add(p, slack)
		u := new(big.Float).SetPrec(count+64).SetMantExp(new(big.Float).SetPrec(count+64).SetInt(drawn), -int(count))
		next := new(big.Float).SetPrec(count+64).SetMantExp(big.NewFloat(1), -int(count))
		next.Add(next, u)
		switch {
		case next.Cmp(low) <= 0:
			return true
		case u.Cmp(high) >= 0:
			return false
		}
	}
	return false
}

// exponential is exp(−a/b) with a relative error below 2^-precision: the
// argument is halved until it is below 2^-8, its series summed, and the result
// squared as often. A squaring doubles the relative error; there are fewer
// than 48 of them in 128 bits more.
func exponential(a, b *big.Int, precision uint) *big.Float {
	work := precision + 128
	float := func() *big.Float { return new(big.Float).SetPrec(work) }
	y := float().Quo(float().SetInt(a), float().SetInt(b))
	if y.Sign() == 0 {
		return y.SetInt64(1)
	}
	halvings := max(0, y.MantExp(nil)+8)
	y.SetMantExp(y, -halvings).Neg(y)
	sum, term := float().SetInt64(1), float().SetInt64(1)
	for k := int64(1); term.Sign() != 0 && term.MantExp(nil) > -int(work); k++ {
		term.Mul(term, y)
		term.Quo(term, float().SetInt64(k))
		sum.Add(sum, term)
	}
	for range halvings {
		sum.Mul(sum, sum)
	}
	return sum
}
