package ckks

import "math/bits"

// A plaintext polynomial is a plane of least significant 64-bit words, one a
// coefficient, a plane of the next, and so on: as many as the preset has
// primes. Its coefficients m stay below 2^(L·(β+g)), so that Δ·m < Q.

// whole is how many of n coefficients addMessage takes from words directly.
func (c *context) whole(n, logDelta int) int {
	for j := range c.fields {
		if len(c.fields) != 2 || c.fields[j].limb == nil || logDelta > c.Width {
			return 0
		}
	}
	return n &^ 7
}

// split writes Δ·m in base 2^Width: limbs[l][i] are bits [l·Width,
// (l+1)·Width) of coefficient i, for i from the given one up to n.
func (c *context) split(limbs, words [][]uint64, from, n, logDelta int) {
	mask := uint64(1)<<c.Width - 1
	dst := limbs[0][from:n]
	for i, w := range words[0][from:n] {
		dst[i] = w << logDelta & mask
	}
	for l := 1; l < len(limbs); l++ {
		at := l*c.Width - logDelta
		word, shift := at/64, at%64
		low, dst := words[word][from:n], limbs[l][from:n]
		if word+1 == len(words) {
			for i, w := range low {
				dst[i] = w >> shift & mask
			}
			continue
		}
		high := words[word+1][from:n]
		for i, w := range low {
			dst[i] = (w>>shift | high[i]<<(64-shift)) & mask
		}
	}
}

// addMessage adds message and error to c, which holds residues modulo f.q:
// c + Σ limbs_l·2^(l·Width) + e. It uses that 2^Width ≡ f.c is small. Of the
// first [context.whole] coefficients it reads words, of the rest limbs.
func (f *field) addMessage(c []uint64, words, limbs [][]uint64, e []int32, logDelta, width int) {
	mask := uint64(1)<<width - 1
	e = e[:len(c)]
	switch len(limbs) {
	case 1:
		low := limbs[0][:len(c)]
		for i, v := range c {
			c[i] = f.finish(v+low[i]+uint64(int64(e[i])+int64(f.q)), width, mask)
		}
	case 2:
		low, high := limbs[0][:len(c)], limbs[1][:len(c)]
		done := f.limb.Message(c, words[0], words[1], e, logDelta, width)
		c, e, low, high = c[done:], e[done:], low[done:], high[done:]
		for i, v := range c {
			acc := f.shift(high[i], width, mask) + low[i]
			c[i] = f.finish(acc+v+uint64(int64(e[i])+int64(f.q)), width, mask)
		}
	case 4:
		done := f.limb.Limbs(c, (*[4][]uint64)(limbs), e)
		l0, l1, l2, l3 := limbs[0][done:], limbs[1][done:], limbs[2][done:], limbs[3][done:]
		e = e[done:]
		for i, v := range c[done:] {
			acc := f.shift(l3[i], width, mask) + l2[i]
			acc = f.shift(acc, width, mask) + l1[i]
			acc = f.shift(acc, width, mask) + l0[i]
			c[done+i] = f.finish(acc+v+uint64(int64(e[i])+int64(f.q)), width, mask)
		}
	default:
		f.addMessageAny(c, limbs, e, width)
	}
}

// addMessageAny is the form of addMessage for any number of limbs.
func (f *field) addMessageAny(c []uint64, limbs [][]uint64, e []int32, width int) {
	mask := uint64(1)<<width - 1
	for i, v := range c {
		acc := uint64(0)
		for l := len(limbs) - 1; l >= 0; l-- {
			acc = f.shift(acc, width, mask) + limbs[l][i]
		}
		c[i] = f.finish(acc+v+uint64(int64(e[i])+int64(f.q)), width, mask)
	}
}

// shift is congruent to v·2^Width and below 2^(Width+1), for v < 2^(Width+2):
// v·c < 2^75 is split at Width and its upper part, below 2^24, folded in.
func (f *field) shift(v uint64, width int, mask uint64) uint64 {
	hi, lo := bits.Mul64(v, f.c)
	return lo&mask + (hi<<((64-width)&63)|lo>>(width&63))*f.c
}

// finish reduces v < 2^(Width+4).
func (f *field) finish(v uint64, width int, mask uint64) uint64 {
	return below(v&mask+v>>(width&63)*f.c, f.q)
}

// join turns residues x_j, below 2·q_j, into plaintext words: the integer x modulo Q that
// they stand for, plus Δ/2 modulo Q, divided by Δ. It reports whether every
// remainder, the sum of the errors, is within bound. The residues are
// overwritten.
//
// The addition is modulo Q and comes before the division: a sum of zero with
// negative noise would wrap otherwise.
func (c *context) join(words, residues [][]uint64, n, logDelta int, bound uint64) bool {
	switch len(c.fields) {
	case 2:
		return c.joinTwo(words, residues, n, logDelta, bound)
	case 4:
		return c.joinFour(words, residues, n, logDelta, bound)
	default:
		return c.joinAny(words, residues, n, logDelta, bound)
	}
}

// joinTwo is join for two primes.
func (c *context) joinTwo(words, residues [][]uint64, n, logDelta int, bound uint64) bool {
	q0, f, inv := c.fields[0].q, &c.fields[1], c.inverse[1][0]
	half, mask := uint64(1)<<(logDelta-1), uint64(1)<<logDelta-1
	done, bad := f.join.Words(words[0], words[1], residues[0][:n], residues[1][:n], logDelta, bound)
	r0, r1 := residues[0][done:n], residues[1][done:n]
	w0, w1 := words[0][done:n], words[1][done:n]
	for i, v := range r0 {
		// Primes share their bit length: what is below q0 is below 2·q1.
		v = below(v, q0)
		hi, lo := bits.Mul64(f.mul(below(r1[i], f.q)+f.q-below(v, f.q), inv), q0)
		lo, carry := bits.Add64(lo, v, 0)
		hi += carry
		lo, carry = bits.Add64(lo, half, 0)
		hi += carry
		tlo, borrow := bits.Sub64(lo, c.q[0], 0)
		thi, borrow := bits.Sub64(hi, c.q[1], borrow)
		lo = tlo ^ (tlo^lo)&-borrow
		hi = thi ^ (thi^hi)&-borrow
		bad |= excess(lo&mask, half, bound)
		w0[i] = lo>>logDelta | hi<<(64-logDelta)
		w1[i] = hi >> logDelta
	}
	return bad>>63 == 0
}

// joinFour is join for four primes.
func (c *context) joinFour(words, residues [][]uint64, n, logDelta int, bound uint64) bool {
	r0, r1, r2, r3 := residues[0][:n], residues[1][:n], residues[2][:n], residues[3][:n]
	done := c.digits.Mixed(r0, r1, r2, r3)
	c.mixed(r0[done:], r1[done:], r2[done:], r3[done:])
	q0, q1, q2 := c.fields[0].q, c.fields[1].q, c.fields[2].q
	m0, m1, m2, m3 := c.q[0], c.q[1], c.q[2], c.q[3]
	half, mask := uint64(1)<<(logDelta-1), uint64(1)<<logDelta-1
	down, up := uint(logDelta)&63, uint(64-logDelta)&63
	w0, w1, w2, w3 := words[0][:n], words[1][:n], words[2][:n], words[3][:n]
	bad := uint64(0)
	for i, d0 := range r0 {
		// ((d3·q2 + d2)·q1 + d1)·q0 + d0 + half
		var carry uint64
		x1, x0 := bits.Mul64(r3[i], q2)
		x0, carry = bits.Add64(x0, r2[i], 0)
		x1 += carry

		h0, l0 := bits.Mul64(x0, q1)
		x2, l1 := bits.Mul64(x1, q1)
		x0, carry = bits.Add64(l0, r1[i], 0)
		x1, carry = bits.Add64(l1, h0, carry)
		x2 += carry

		h0, l0 = bits.Mul64(x0, q0)
		h1, l1 := bits.Mul64(x1, q0)
		x3, l2 := bits.Mul64(x2, q0)
		l0, carry = bits.Add64(l0, d0, 0)
		l1, carry = bits.Add64(l1, h0, carry)
		l2, carry = bits.Add64(l2, h1, carry)
		x3 += carry
		x0, carry = bits.Add64(l0, half, 0)
		x1, carry = bits.Add64(l1, 0, carry)
		x2, carry = bits.Add64(l2, 0, carry)
		x3 += carry

		t0, borrow := bits.Sub64(x0, m0, 0)
		t1, borrow := bits.Sub64(x1, m1, borrow)
		t2, borrow := bits.Sub64(x2, m2, borrow)
		t3, borrow := bits.Sub64(x3, m3, borrow)
		keep := -borrow
		x0, x1 = t0^(t0^x0)&keep, t1^(t1^x1)&keep
		x2, x3 = t2^(t2^x2)&keep, t3^(t3^x3)&keep

		bad |= excess(x0&mask, half, bound)
		w0[i], w1[i] = x0>>down|x1<<up, x1>>down|x2<<up
		w2[i], w3[i] = x2>>down|x3<<up, x3>>down
	}
	return bad>>63 == 0
}

// mixed overwrites residues of four primes with Garner's mixed radix digits.
// What [field.mul] is given may be any word: differences are made positive with
// twice the prime, below which what is below another is, and not reduced.
func (c *context) mixed(r0, r1, r2, r3 []uint64) {
	f0, f1, f2, f3 := &c.fields[0], &c.fields[1], &c.fields[2], &c.fields[3]
	above1, above2, above3 := 2*f1.q, 2*f2.q, 2*f3.q
	i10, i20, i21 := c.inverse[1][0], c.inverse[2][0], c.inverse[2][1]
	i30, i31, i32 := c.inverse[3][0], c.inverse[3][1], c.inverse[3][2]
	for i, d0 := range r0 {
		d0 = below(d0, f0.q)
		d1 := f1.mul(r1[i]+above1-d0, i10)
		d2 := f2.mul(f2.mul(r2[i]+above2-d0, i20)+above2-d1, i21)
		d3 := f3.mul(f3.mul(f3.mul(r3[i]+above3-d0, i30)+above3-d1, i31)+above3-d2, i32)
		r0[i], r1[i], r2[i], r3[i] = d0, d1, d2, d3
	}
}

// joinAny is join for any number of primes: Garner's mixed radix digits, then
// Horner over words.
func (c *context) joinAny(words, residues [][]uint64, n, logDelta int, bound uint64) bool {
	k := len(c.fields)
	half, mask := uint64(1)<<(logDelta-1), uint64(1)<<logDelta-1
	bad := uint64(0)
	for i := range n {
		var digit, x [maxPrimes]uint64
		for j := range k {
			f := &c.fields[j]
			v := below(residues[j][i], f.q)
			for l := range j {
				v = f.mul(v+f.q-below(digit[l], f.q), c.inverse[j][l])
			}
			digit[j] = v
		}
		for j := k - 1; j >= 0; j-- {
			carry := digit[j]
			q := c.fields[j].q
			for w := range k {
				hi, lo := bits.Mul64(x[w], q)
				lo, over := bits.Add64(lo, carry, 0)
				x[w], carry = lo, hi+over
			}
		}
		carry := half
		for w := range k {
			x[w], carry = bits.Add64(x[w], carry, 0)
		}
		var t [maxPrimes]uint64
		borrow := uint64(0)
		for w := range k {
			t[w], borrow = bits.Sub64(x[w], c.q[w], borrow)
		}
		for w := range k {
			x[w] = t[w] ^ (t[w]^x[w])&-borrow
		}
		bad |= excess(x[0]&mask, half, bound)
		for w := range k {
			v := x[w] >> logDelta
			if w+1 < k {
				v |= x[w+1] << (64 - logDelta)
			}
			words[w][i] = v
		}
	}
	return bad>>63 == 0
}

// excess has bit 63 set when |r − half| > bound.
func excess(r, half, bound uint64) uint64 {
	e := int64(r - half)
	sign := e >> 63
	return bound - uint64(e^sign-sign)
}
