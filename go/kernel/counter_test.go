package kernel

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"testing"
)

func TestTheSubstitutionIsAPermutationWithTheFirstEntriesOfFIPS197(t *testing.T) {
	want := []byte{0x63, 0x7c, 0x77, 0x7b, 0xf2, 0x6b, 0x6f, 0xc5, 0x30, 0x01, 0x67, 0x2b, 0xfe, 0xd7, 0xab, 0x76}
	seen := map[byte]bool{}
	for x := range 256 {
		y := substitute(byte(x))
		if x < len(want) && y != want[x] {
			t.Errorf("S(%#x) = %#x, want %#x", x, y, want[x])
		}
		seen[y] = true
	}
	if len(seen) != 256 || substitute(0x53) != 0xed {
		t.Error("not the permutation of FIPS 197")
	}
}

// TestTheKeyScheduleIsThatOfFIPS197, appendix A.1 and A.3: the last words.
func TestTheKeyScheduleIsThatOfFIPS197(t *testing.T) {
	for _, c := range []struct {
		key  []byte
		size int
		last [4]byte
	}{
		{[]byte{0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c}, 176, [4]byte{0xb6, 0x63, 0x0c, 0xa6}},
		{[]byte{
			0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81,
			0x1f, 0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4,
		}, 240, [4]byte{0x70, 0x6c, 0x63, 0x1e}},
	} {
		keys := make([]byte, c.size)
		expand(keys, c.key)
		if [4]byte(keys[c.size-4:]) != c.last {
			t.Errorf("%d-bit key: last word %x, want %x", 8*len(c.key), keys[c.size-4:], c.last)
		}
	}
}

// TestCounterIsTheStandardLibrarys for random keys and nonces and all lengths
// around a turn.
func TestCounterIsTheStandardLibrarys(t *testing.T) {
	if !HasCounter {
		t.Log("this processor has no vector AES: the standard library's is used")
		return
	}
	for _, size := range []int{16, 32} {
		for range 20 {
			key, nonce := make([]byte, size), [12]byte{}
			for _, b := range [][]byte{key, nonce[:]} {
				if _, err := rand.Read(b); err != nil {
					t.Fatal(err)
				}
			}
			block, err := aes.NewCipher(key)
			if err != nil {
				t.Fatal(err)
			}
			counter := NewCounter(key)
			for _, n := range []int{0, 1, 15, 16, 17, 255, 256, 257, 511, 512, 70_001} {
				want := make([]byte, n)
				cipher.NewCTR(block, append(nonce[:], 0, 0, 0, 2)).XORKeyStream(want, want)
				got := bytes.Repeat([]byte{0xa5}, n+1)
				counter.Fill(got[:n], &nonce)
				if !bytes.Equal(got[:n], want) || got[n] != 0xa5 {
					t.Fatalf("AES-%d: %d bytes differ", 8*size, n)
				}
			}
		}
	}
	if NewCounter(make([]byte, 24)) != nil || NewCounter(nil) != nil {
		t.Error("a key of another length was taken")
	}
}

func TestFillAllocatesNothing(t *testing.T) {
	c := NewCounter(make([]byte, 16))
	if c == nil {
		return
	}
	dst, nonce := make([]byte, 1000), [12]byte{}
	if n := testing.AllocsPerRun(100, func() { c.Fill(dst, &nonce) }); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

func BenchmarkCounter(b *testing.B) {
	c := NewCounter(make([]byte, 16))
	if c == nil {
		b.Skip("no vector AES")
	}
	dst, nonce := make([]byte, 32<<10), [12]byte{}
	b.SetBytes(int64(len(dst)))
	for b.Loop() {
		c.Fill(dst, &nonce)
	}
}
