package tag_test

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/tag"
)

var prime = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 61), big.NewInt(1))

// reference evaluates the polynomial in big integers. The factor of the chunk
// and the point are read off the tags of one symbol.
func reference(h *tag.Hasher, chunk uint32, symbols []*big.Int) *big.Int {
	one := new(big.Int).SetUint64(h.Symbols(chunk, []uint64{1}))
	two := new(big.Int).SetUint64(h.Symbols(chunk, []uint64{0, 1}))
	point := new(big.Int).Mul(two, new(big.Int).ModInverse(one, prime))
	point.Mod(point, prime)
	sum, x := new(big.Int), one
	for _, s := range symbols {
		sum.Add(sum, new(big.Int).Mul(s, x)).Mod(sum, prime)
		x = new(big.Int).Mod(new(big.Int).Mul(x, point), prime)
	}
	return sum
}

func TestChunkIsThePolynomial(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, words := range []int{1, 2, 4} {
		for width := 5; width <= 48; width++ {
			lanes := min((51*words-10)/width, 40)
			if lanes == 0 {
				continue
			}
			h := tag.New(tag.Key{7}, 131, words, lanes, width)
			group := tag.GroupBits / width
			for _, n := range []int{1, 3, 64, 65, 131} {
				planes := make([][]uint64, words)
				for w := range planes {
					planes[w] = make([]uint64, n)
				}
				var symbols []*big.Int
				for i := range n {
					c := new(big.Int)
					for lane := range lanes {
						v := rng.Uint64() & (1<<width - 1)
						if i%3 == 0 {
							v = 1<<width - 1
						}
						c.Or(c, new(big.Int).Lsh(new(big.Int).SetUint64(v), uint(lane*width)))
						if lane%group == 0 {
							symbols = append(symbols, new(big.Int))
						}
						last := symbols[len(symbols)-1]
						last.Or(last, new(big.Int).Lsh(new(big.Int).SetUint64(v), uint(lane%group*width)))
					}
					for w := range planes {
						planes[w][i] = new(big.Int).And(c, new(big.Int).SetUint64(^uint64(0))).Uint64()
						c.Rsh(c, 64)
					}
				}
				got := h.Chunk(3, planes, n)
				if want := reference(h, 3, symbols); want.Cmp(new(big.Int).SetUint64(got)) != 0 {
					t.Fatalf("%d words, %d lanes of %d bits, %d coefficients: %d, want %v", words, lanes, width, n, got, want)
				}
			}
		}
	}
}

func TestSymbolsIsThePolynomial(t *testing.T) {
	h := tag.New(tag.Key{9}, 1, 1, 1, 20)
	symbols := []uint64{5, 0, 1<<36 - 1, ^uint64(0), 1<<61 - 1, 1 << 61}
	var exact []*big.Int
	for _, s := range symbols {
		exact = append(exact, new(big.Int).SetUint64(s))
	}
	got := h.Symbols(1, symbols)
	if want := reference(h, 1, exact); want.Cmp(new(big.Int).SetUint64(got)) != 0 {
		t.Fatalf("%d, want %v", got, want)
	}
}

// Tags are linear, and differ by chunk, client and key.
func TestLinearAndSeparate(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const n, lanes, width = 50, 4, 23
	h, other := tag.New(tag.Key{1}, n, 2, lanes, width), tag.New(tag.Key{2}, n, 2, lanes, width)
	pack := func(values []uint64) [][]uint64 {
		p := [][]uint64{make([]uint64, n), make([]uint64, n)}
		for i, v := range values {
			bit := i % lanes * width
			p[bit/64][i/lanes] |= v << (bit % 64)
			if bit/64 == 0 && bit+width > 64 {
				p[1][i/lanes] |= v >> (64 - bit)
			}
		}
		return p
	}
	a, b, sum := make([]uint64, n*lanes), make([]uint64, n*lanes), make([]uint64, n*lanes)
	for i := range a {
		a[i], b[i] = rng.Uint64N(1<<(width-1)), rng.Uint64N(1<<(width-1))
		sum[i] = a[i] + b[i]
	}
	one := h.Chunk(0, pack(a), n)
	whole := h.Chunk(0, pack(sum), n)
	if got := tag.Add(one, h.Chunk(0, pack(b), n)); got != whole {
		t.Fatalf("the sum's tag is %d, the tags' sum %d", whole, got)
	}
	if got := tag.Scale(one, 3); got != tag.Add(one, tag.Add(one, one)) {
		t.Fatal("three times a tag is not the tag of three times")
	}
	seen := map[uint64]string{}
	for name, v := range map[string]uint64{
		"chunk 0": whole, "chunk 1": h.Chunk(1, pack(sum), n), "another key": other.Chunk(0, pack(sum), n),
		"client a": h.Client("a"), "client b": h.Client("b"), "client a, another key": other.Client("a"),
	} {
		if before, ok := seen[v]; ok {
			t.Fatalf("%s and %s agree", name, before)
		}
		seen[v] = name
	}
}

func planes(rng *rand.Rand, n int) [][]uint64 {
	out := [][]uint64{make([]uint64, n), make([]uint64, n)}
	for i := range n {
		out[0][i], out[1][i] = rng.Uint64(), rng.Uint64()
	}
	return out
}

func TestKeysNeverPrint(t *testing.T) {
	key := tag.Key{0x41, 0x42, 0x43}
	for _, verb := range []string{"%v", "%x", "%s", "%#v", "%q", "%d"} {
		if text := fmt.Sprintf(verb, key); !strings.Contains(text, "redacted") || strings.Contains(text, "65") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

func BenchmarkChunk(b *testing.B) {
	rng := rand.New(rand.NewPCG(3, 4))
	p := planes(rng, 4096)
	h := tag.New(tag.Key{1}, 4096, 2, 4, 19)
	b.SetBytes(4096 * 4)
	for b.Loop() {
		h.Chunk(0, p, 4096)
	}
}
