// Package tag is the linear tag of a round: a keyed polynomial hash of what a
// contribution says, so that whoever opens a sum can tell whether it is the
// sum of exactly the contributions that the manifest lists, unchanged and in
// their places. The tag of a sum is the sum of the tags.
//
// # Security
//
// The key service gives the round's key to enrolled clients and to nobody
// else. Without it, whoever adds, drops, scales or moves anything in a sum
// passes with probability at most 2^-44 an attempt: what was changed in a
// chunk is a polynomial of degree at most 2^16, not zero, in a point x that is
// uniform but for 2^-61; every chunk has an independent factor, every client
// an independent constant (proven, for a random function in the place of
// SHA-256). An aggregator that colludes with one client has the key and can
// change a sum at will: the tag is no protection then.
//
// Tags are computed of secrets: nothing here branches or indexes by a value.
package tag

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/bits"

	"github.com/cryptflow/cryptflow/go/kernel"
)

// Key is a round's tag key. It never prints itself.
type Key [32]byte

const redacted = "tag key(redacted)"

// Format does not reveal the key, whatever the verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue does not reveal the key.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// prime is 2^61 − 1; sums of tags are taken modulo it.
const prime = 1<<61 - 1

// GroupBits bounds a group of lanes: sums of groups stay below the prime, so
// that no change of a group is a multiple of it.
const GroupBits = 60

const (
	tagPoint  = "cryptflow/v1/tag-point"
	tagChunk  = "cryptflow/v1/tag-chunk"
	tagClient = "cryptflow/v1/tag-client"
)

// element is the first 61 bits of H(tag ‖ 0x00 ‖ key ‖ data), data of fixed
// length, at most 32 bytes. The value 2^61 − 1, of probability 2^-61, counts as 0.
func (k *Key) element(tag string, data []byte) uint64 {
	var buf [128]byte
	n := copy(buf[:], tag) + 1
	n += copy(buf[n:], k[:])
	n += copy(buf[n:], data)
	digest := sha256.Sum256(buf[:n])
	return reduce(binary.LittleEndian.Uint64(digest[:]) & prime)
}

// Hasher computes the tags of one round's chunks. It is immutable and may be
// shared by goroutines.
type Hasher struct {
	key    Key
	places []place
	point  uint64
	width  int
}

// place is one symbol of a coefficient: where it lies, and the powers of the
// point that it meets in coefficient after coefficient.
type place struct {
	word        int
	shift, back uint
	mask        uint64
	powers      []uint64
	lanes       []lane // nil: powers are used
	// halves are the powers for the kernel: their lower 31 bits and, from bit 32
	// on, the upper 30.
	halves []uint64
}

// lane is one lane of a place.
type lane struct {
	word  int
	at    int
	scale uint64 // 2^(bit of the lane in its symbol)
}

// New prepares tags of chunks of up to n coefficients, each of words 64-bit
// words with the given number of lanes of width bits, 1 to 48. A symbol is a
// group of neighbouring lanes, the lowest first.
func New(key Key, n, words, lanes, width int) *Hasher {
	h := &Hasher{key: key, point: key.element(tagPoint, nil)}
	group := GroupBits / width
	for from := 0; from < lanes; from += group {
		bit := from * width
		p := place{word: bit / 64, shift: uint(bit % 64), back: 64, mask: 1<<(min(group, lanes-from)*width) - 1}
		if p.shift > 64-GroupBits && p.word+1 < words {
			p.back = 64 - p.shift
		}
		p.powers = make([]uint64, n)
		h.places = append(h.places, p)
	}
	h.width = width
	ratio := uint64(1)
	for range h.places {
		ratio = mul(ratio, h.point)
	}
	first := h.point
	for _, p := range h.places {
		geometric(p.powers, first, ratio)
		first = mul(first, h.point)
	}
	if kernel.Available && width <= kernel.DotWidth {
		h.split(lanes)
	}
	return h
}

// geometric fills dst with first·ratio^i, in eight series side by side: a
// processor multiplies several numbers at a time.
func geometric(dst []uint64, first, ratio uint64) {
	const series = 8
	x, step := first, uint64(1)
	for i := range min(series, len(dst)) {
		dst[i] = x
		x, step = mul(x, ratio), mul(step, ratio)
	}
	for i := series; i < len(dst); i++ {
		dst[i] = mul(dst[i-series], step)
	}
}

// split prepares the lanes of every place for the kernel.
func (h *Hasher) split(lanes int) {
	group := GroupBits / h.width
	for k := range h.places {
		p := &h.places[k]
		p.halves = make([]uint64, len(p.powers))
		for i, x := range p.powers {
			p.halves[i] = x&(1<<31-1) | x>>31<<32
		}
		for j := range min(group, lanes-k*group) {
			bit := (k*group + j) * h.width
			p.lanes = append(p.lanes, lane{word: bit / 64, at: bit % 64, scale: 1 << (j * h.width)})
		}
	}
}

// Client is the constant of one client: no contribution can stand for
// another's.
func (h *Hasher) Client(name string) uint64 {
	digest := sha256.Sum256([]byte(name))
	return h.key.element(tagClient, digest[:])
}

// factor is what the polynomial of a chunk is multiplied with.
func (h *Hasher) factor(chunk uint32) uint64 {
	var index [4]byte
	binary.LittleEndian.PutUint32(index[:], chunk)
	return h.key.element(tagChunk, index[:])
}

// Chunk is the factor of a chunk times Σ s_i·x^(i+1) over the symbols of its
// first n coefficients, coefficient by coefficient. words are the words of the
// coefficients, least significant first.
func (h *Hasher) Chunk(chunk uint32, words [][]uint64, n int) uint64 {
	sum := uint64(0)
	for k := range h.places {
		p := &h.places[k]
		done := 0
		if p.lanes != nil {
			done = n &^ 3
			for _, l := range p.lanes {
				sum = add(sum, mul(l.dot(words, p.halves[:done], h.width), l.scale))
			}
		}
		low := words[p.word][done:n]
		high := low
		if p.back < 64 {
			high = words[p.word+1][done:n]
		}
		sum = add(sum, p.dot(low, high, p.powers[done:]))
	}
	return mul(sum, h.factor(chunk))
}

// dot is Σ v_i·halves_i over the first coefficients, as many as there are
// halves, a multiple of 4.
func (l *lane) dot(words [][]uint64, halves []uint64, width int) uint64 {
	n := len(halves)
	low, high := words[l.word][:n], words[min(l.word+1, len(words)-1)][:n]
	sum := uint64(0)
	for at := 0; at < n; {
		lower, upper, done := kernel.Dot(low[at:], high[at:], halves[at:], l.at, width)
		for i := range lower {
			sum = add(sum, add(reduce(lower[i]), mul(reduce(upper[i]), 1<<31)))
		}
		at += done
	}
	return sum
}

// run is how many products are added before they are reduced: each is below
// 2^121.
const run = 64

// dot is Σ s_i·powers_i.
func (p *place) dot(low, high, powers []uint64) uint64 {
	sum := uint64(0)
	shift, back, mask := p.shift&63, p.back&63, p.mask
	join := -(uint64(p.back)>>6 ^ 1) // all ones where the symbol spans two words
	for at := 0; at < len(low); at += run {
		end := min(at+run, len(low))
		a, b, c := low[at:end], high[at:end], powers[at:end]
		b, c = b[:len(a)], c[:len(a)]
		var hi, lo, carry uint64
		for i := range a {
			s := (a[i]>>shift | b[i]<<back&join) & mask
			ph, pl := bits.Mul64(s, c[i])
			lo, carry = bits.Add64(lo, pl, 0)
			hi, _ = bits.Add64(hi, ph, carry)
		}
		// hi·2^64 + lo, hi below 2^63: 2^64 is 8 modulo the prime.
		sum = add(sum, add(reduce(lo), mul(reduce(hi), 8)))
	}
	return sum
}

// Symbols is the tag of a chunk whose symbols are given: that of control
// entries.
func (h *Hasher) Symbols(chunk uint32, symbols []uint64) uint64 {
	sum := uint64(0)
	for i := len(symbols) - 1; i >= 0; i-- {
		sum = mul(add(sum, reduce(symbols[i])), h.point)
	}
	return mul(sum, h.factor(chunk))
}

// Add is the sum of two tags.
func Add(a, b uint64) uint64 { return add(reduce(a), reduce(b)) }

// Shift48 is a·2^48, for tags that were added up in two parts.
func Shift48(a uint64) uint64 { return mul(reduce(a), 1<<48) }

// Shift64 is a·2^64, for the upper word of a sum of parts of tags.
func Shift64(a uint64) uint64 { return mul(reduce(a), 1<<3) }

// Scale is a tag times a public weight.
func Scale(a uint64, weight uint32) uint64 { return mul(reduce(a), uint64(weight)) }

// reduce takes any word below the prime.
func reduce(a uint64) uint64 {
	a = a&prime + a>>61
	b := a - prime
	return b + prime&-(b>>63)
}

// add of two reduced numbers.
func add(a, b uint64) uint64 { return reduce(a + b) }

// mul of two reduced numbers: their product is below 2^122, its two halves of
// 61 bits add up to less than 2^62.
func mul(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return reduce(lo&prime + (lo>>61 | hi<<3))
}
