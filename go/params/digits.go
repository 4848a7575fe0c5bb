package params

// PreciseBits says how fine a precise tensor is: its last digit's step is at
// most 2^-PreciseBits of its range. Beside a value of that range, one 2^20
// times smaller keeps the 24 bits that a float32 has.
const PreciseBits = 44

// Digits is the number of digits in which a value of a precise tensor travels.
// The first has M steps to the range, each further one 2M to half a step of
// the one before.
func (s *Scheme) Digits() int {
	n, steps := 1, float64(s.Half())
	for steps < 1<<PreciseBits {
		steps *= s.DigitBase()
		n++
	}
	return n
}

// DigitBase is how many steps of a digit make one of the digit before: 2M.
func (s *Scheme) DigitBase() float64 { return float64(2 * s.Half()) }
