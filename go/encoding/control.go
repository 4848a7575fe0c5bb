package encoding

import (
	"fmt"
	"math"
	"math/big"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// MaxControl is the largest value of one client's entry.
const MaxControl = 1<<(params.Limbs*params.LimbBits) - 1

// A metric is a multiple of 2^-24 between -2^22 and 2^22, and offset so that
// it is positive.
const (
	MetricLimit      = 1 << 22
	metricScale      = 1 << 24
	metricOffsetBits = 46
	metricOffset     = 1 << metricOffsetBits
)

// EncodeMetric is the entry of a metric times factor, to nearest, ties to
// even. The value is within ±MetricLimit: callers refuse others by name. A
// metric that is not given is that of value 0.
func EncodeMetric(value, factor float64) uint64 {
	return uint64(int64(math.RoundToEven(value*factor*metricScale)) + metricOffset)
}

// DecodeMetric is the weighted mean of a metric: high and low are the two words
// of the sum of its entries over contributions of the given public weight,
// weights what represents those who gave it, in units of the factor. The offset
// is taken away in integers: public weights can bring a sum to 2^67.
func DecodeMetric(high, low uint64, weight uint32, weights float64) float64 {
	sum := new(big.Int).SetUint64(high)
	sum.Lsh(sum, 64).Add(sum, new(big.Int).SetUint64(low))
	sum.Sub(sum, new(big.Int).Lsh(big.NewInt(int64(weight)), metricOffsetBits))
	difference, _ := new(big.Float).SetInt(sum).Float64()
	return difference / metricScale / weights
}

// EncodeControl writes the entries to words as three 16-bit limbs each, least
// significant first, one limb a coefficient.
func EncodeControl(words [][]uint64, entries []uint64) error {
	for k, v := range entries {
		if v > MaxControl {
			return fmt.Errorf("control entry %d does not fit %d bits: %w", k, params.Limbs*params.LimbBits, errs.ErrLimit)
		}
		for limb := range params.Limbs {
			i := k*params.Limbs + limb
			for w := range words {
				words[w][i] = 0
			}
			words[0][i] = v >> (limb * params.LimbBits) & (1<<params.LimbBits - 1)
		}
	}
	return nil
}

// TaggedLimbs is what the tag of a control chunk covers: the limbs of count
// entries, those of the tag itself being 0.
func TaggedLimbs(words [][]uint64, count int) []uint64 {
	limbs := append([]uint64(nil), words[0][:count*params.Limbs]...)
	clear(limbs[params.ControlTagLow*params.Limbs : (params.ControlTagHigh+1)*params.Limbs])
	return limbs
}

// DecodeControl reads the sums of the first count entries from words: the low
// word of each, and the high one, which only large public weights need. It
// returns ErrDecrypt when a limb exceeds what weight terms can sum to.
func DecodeControl(words [][]uint64, count int, weight uint32) (entries, high []uint64, err error) {
	entries, high = make([]uint64, count), make([]uint64, count)
	for k := range entries {
		carry := uint64(0)
		for limb := range params.Limbs {
			i := k*params.Limbs + limb
			rest := uint64(0)
			for w := 1; w < len(words); w++ {
				rest |= words[w][i]
			}
			v := words[0][i]
			if rest != 0 || v > uint64(weight)*(1<<params.LimbBits-1) {
				return nil, nil, fmt.Errorf("control entry %d holds more than %d terms can sum to: %w", k, weight, errs.ErrDecrypt)
			}
			v += carry
			entries[k] |= v & (1<<params.LimbBits - 1) << (limb * params.LimbBits)
			carry = v >> params.LimbBits
		}
		entries[k] |= carry << (params.Limbs * params.LimbBits)
		high[k] = carry >> (64 - params.Limbs*params.LimbBits)
	}
	return entries, high, nil
}
