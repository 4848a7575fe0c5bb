package ckks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

func TestEncryptDecrypt(t *testing.T) {
	eachScheme(t, func(t *testing.T, s *params.Scheme) {
		e, secret := encryptorOf(t, s)
		d, err := NewDecryptor(s, testDigest, secret, 1, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, 13, s.N()} {
			h := wholeHeader(s, 3)
			h.Coefficients = uint32(n)
			m := message(rand.New(rand.NewPCG(3, uint64(n))), s, n)
			b := make([]byte, h.Size())
			if err := e.Encrypt(b, h, m); err != nil {
				t.Fatal(err)
			}
			if err := frame.Check(b, h); err != nil {
				t.Fatal(err)
			}
			again := make([]byte, h.Size())
			if err := e.Encrypt(again, h, m); err != nil || !bytes.Equal(b, again) {
				t.Fatalf("encrypting again gave other bytes, %v", err)
			}
			words := d.planes()
			if err := d.Decrypt(words, b, h); err != nil {
				t.Fatal(err)
			}
			for w := range m {
				for i := range n {
					if words[w][i] != m[w][i] {
						t.Fatalf("%d coefficients: coefficient %d, word %d differs", n, i, w)
					}
				}
			}
		}
	})
}

func TestWrongSecretDoesNotOpen(t *testing.T) {
	eachScheme(t, func(t *testing.T, s *params.Scheme) {
		e, secret := encryptorOf(t, s)
		h := wholeHeader(s, 3)
		b := make([]byte, h.Size())
		if err := e.Encrypt(b, h, message(rand.New(rand.NewPCG(3, 3)), s, s.N())); err != nil {
			t.Fatal(err)
		}
		off := append([]int32(nil), secret...)
		off[7]++
		zero := make([]int32, s.N())
		for name, wrong := range map[string][]int32{"one coefficient off": off, "zero": zero} {
			d, err := NewDecryptor(s, testDigest, wrong, 1, 1, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Decrypt(d.planes(), b, h); !errors.Is(err, errs.ErrDecrypt) {
				t.Errorf("%s: %v, want CF_DECRYPT", name, err)
			}
		}
		d, err := NewDecryptor(s, testDigest, secret, 1, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		other := h
		other.Chunk++
		if err := d.Decrypt(d.planes(), b, other); !errors.Is(err, errs.ErrFrameContext) {
			t.Errorf("another chunk: %v", err)
		}
		for name, bad := range map[string][]int32{"short": secret[1:], "huge": append(make([]int32, s.N()-1), 41)} {
			if _, err := NewDecryptor(s, testDigest, bad, 1, 1, nil); err == nil {
				t.Errorf("a secret that is %s was accepted", name)
			}
		}
	})
}

// TestPublicKeyIsCanonical: b + a·s is the small error, and only the frame of
// the right nonce is accepted.
func TestPublicKeyIsCanonical(t *testing.T) {
	for _, p := range params.Presets() {
		secret, pk, err := GenerateKeyPair(p, testNonce, Seed{3})
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckPublicKey(p, testNonce, pk); err != nil {
			t.Fatal(err)
		}
		if err := CheckPublicKey(p, [32]byte{1}, pk); !errors.Is(err, errs.ErrFrameContext) {
			t.Errorf("%s: another nonce: %v", p.Name, err)
		}
		if err := CheckPublicKey(p, testNonce, pk[:len(pk)-1]); !errors.Is(err, errs.ErrFrame) {
			t.Errorf("%s: truncated: %v", p.Name, err)
		}
		c, _ := contextOf(p)
		x, err := newExpander(&testNonce, p.N())
		if err != nil {
			t.Fatal(err)
		}
		body := pk[frame.HeaderSize:]
		a, s, b := make([]uint64, p.N()), make([]uint64, p.N()), make([]uint64, p.N())
		for j := range c.fields {
			f := &c.fields[j]
			x.expand(a, 0, j, f.q, p.Width)
			f.load(s, secret)
			f.product(a, a, s)
			f.sub.INTT(a, a)
			size := frame.BlockSize(p.N(), p.Width)
			frame.Unpack(b, body[:size], p.Width, f.q)
			body = body[size:]
			for i := range b {
				if e := int64(below(b[i]+a[i], f.q)); e > int64(largest) && e < int64(f.q)-int64(largest) {
					t.Fatalf("%s: b + a·s is not small", p.Name)
				}
			}
		}
	}
}

func TestSumSecretsAddsUp(t *testing.T) {
	p := params.Presets()[0]
	seeds := []Seed{{1}, {2}, {3}}
	sum, err := SumSecrets(p, testDigest, seeds)
	if err != nil {
		t.Fatal(err)
	}
	for i := range seeds {
		one, err := SumSecrets(p, testDigest, seeds[i:i+1])
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range one {
			sum[k] -= v
		}
	}
	for k, v := range sum {
		if v != 0 {
			t.Fatalf("coefficient %d is off by %d", k, v)
		}
	}
	other, err := SumSecrets(p, [32]byte{9}, seeds[:1])
	if err != nil {
		t.Fatal(err)
	}
	one, _ := SumSecrets(p, testDigest, seeds[:1])
	if fmt.Sprint(other) == fmt.Sprint(one) {
		t.Error("another specification gives the same secret")
	}
	if _, err := SumSecrets(p, testDigest, nil); !errors.Is(err, errs.ErrArgument) {
		t.Errorf("no seeds: %v", err)
	}
}

func TestSeedsDoNotPrint(t *testing.T) {
	s, err := NewSeed()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "seed", s, "pointer", &s)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "seed", s)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q"} {
		fmt.Fprintf(&log, verb+" "+verb+"\n", s, struct{ S *Seed }{&s}.S)
	}
	if _, err := json.Marshal(struct{ S Seed }{s}); err == nil {
		t.Error("a seed was marshalled")
	}
	for _, form := range []string{fmt.Sprintf("%x", s[:]), fmt.Sprint(s[:]), string(s[:]), fmt.Sprintf("%d", s[0]) + " " + fmt.Sprintf("%d", s[1])} {
		if strings.Contains(strings.ToLower(log.String()), form) {
			t.Errorf("a seed shows in %q", log.String())
		}
	}
}

// TestMessageArithmeticEqualsBigIntegers: c + Δ·m + e modulo q, fast and any.
func TestMessageArithmeticEqualsBigIntegers(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for _, p := range params.Presets() {
		s := schemeOf(t, p.Name, params.SumKey)
		c, err := contextOf(p)
		if err != nil {
			t.Fatal(err)
		}
		n := p.N()
		m, limbs, e := message(rng, s, n), c.planes(), make([]int32, n)
		for i := range e {
			e[i] = rng.Int32N(2*int32(largest)+1) - int32(largest)
		}
		c.split(limbs, m, 0, n, s.LogDelta)
		for j := range c.fields {
			f := &c.fields[j]
			q := new(big.Int).SetUint64(f.q)
			start := make([]uint64, n)
			for i := range start {
				if start[i] = rng.Uint64N(f.q); i%5 == 0 {
					start[i] = f.q - 1
				}
			}
			fast, any := append([]uint64(nil), start...), append([]uint64(nil), start...)
			odd := n - 3 // kernels take multiples of 8
			f.addMessage(fast[:odd], m, limbs, e, s.LogDelta, p.Width)
			f.addMessageAny(any, limbs, e, p.Width)
			for i := range odd {
				v := scaled(m, i, s.LogDelta)
				v.Add(v, new(big.Int).SetUint64(start[i])).Add(v, big.NewInt(int64(e[i]))).Mod(v, q)
				if v.Uint64() != fast[i] || v.Uint64() != any[i] {
					t.Fatalf("%s, prime %d, coefficient %d: %d and %d, want %d", p.Name, j, i, fast[i], any[i], v)
				}
			}
		}
	}
}

// TestMessagesOfExtremeLimbsAgree, limbs as large as their width allows.
func TestMessagesOfExtremeLimbsAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 6))
	for _, p := range params.Presets() {
		c, err := contextOf(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.fields) != 4 {
			continue
		}
		const n = 1003
		limbs, e := c.planes(), make([]int32, n)
		for l := range limbs {
			limbs[l] = limbs[l][:n]
			for i := range limbs[l] {
				limbs[l][i] = []uint64{0, 1<<p.Width - 1, rng.Uint64N(1 << p.Width)}[rng.IntN(3)]
			}
		}
		for i := range e {
			e[i] = []int32{0, int32(largest), -int32(largest)}[rng.IntN(3)]
		}
		for j := range c.fields {
			f := &c.fields[j]
			got := make([]uint64, n)
			for i := range got {
				got[i] = []uint64{0, f.q - 1, f.q / 2, rng.Uint64N(f.q)}[rng.IntN(4)]
			}
			want := slices.Clone(got)
			f.addMessage(got, nil, limbs, e, 0, p.Width)
			if f.addMessageAny(want, limbs, e, p.Width); !slices.Equal(got, want) {
				t.Errorf("%s, prime %d differs", p.Name, j)
			}
		}
	}
}

// TestJoinEqualsBigIntegers: residues of Δ·m + e back to m, with e at and one
// beyond the bound, m zero with negative e (which wraps modulo Q), m largest.
func TestJoinEqualsBigIntegers(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 6))
	for _, p := range params.Presets() {
		s := schemeOf(t, p.Name, params.SumKey)
		c, err := contextOf(p)
		if err != nil {
			t.Fatal(err)
		}
		const n = 64
		bound := s.NoiseBound(4)
		m := message(rng, s, n)
		q := p.Q()
		residues := func(e []int64) [][]uint64 {
			out := c.planes()
			for i := range n {
				v := scaled(m, i, s.LogDelta)
				v.Add(v, big.NewInt(e[i])).Mod(v, q)
				for j := range c.fields {
					out[j][i] = new(big.Int).Mod(v, new(big.Int).SetUint64(p.Primes[j])).Uint64()
				}
			}
			return out
		}
		joins := map[string]func(w, r [][]uint64) bool{
			"join":    func(w, r [][]uint64) bool { return c.join(w, r, n, s.LogDelta, bound) },
			"joinAny": func(w, r [][]uint64) bool { return c.joinAny(w, r, n, s.LogDelta, bound) },
		}
		for name, join := range joins {
			e := make([]int64, n)
			for i := range e {
				if e[i] = int64(bound); i%2 == 0 {
					e[i] = -int64(bound)
				}
			}
			words := c.planes()
			if !join(words, residues(e)) {
				t.Fatalf("%s, %s: noise at the bound was refused", p.Name, name)
			}
			for i := range n {
				for w := range words {
					if words[w][i] != m[w][i] {
						t.Fatalf("%s, %s: coefficient %d, word %d: %#x, want %#x", p.Name, name, i, w, words[w][i], m[w][i])
					}
				}
			}
			for i := range n {
				e[i] += 1 - 2*int64(1-i%2)
				if join(words, residues(e)) {
					t.Fatalf("%s, %s: noise of %d at coefficient %d was accepted, the bound is %d", p.Name, name, e[i], i, bound)
				}
				e[i] -= 1 - 2*int64(1-i%2)
			}
		}
	}
}

// TestJoinsAgree on residues up to twice their primes that stand for anything,
// with remainders on both sides of the bound.
func TestJoinsAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 6))
	for _, p := range params.Presets() {
		c, err := contextOf(p)
		if err != nil {
			t.Fatal(err)
		}
		const n, rounds = 11, 2000 // kernels take multiples of 4
		planes := func() [][]uint64 {
			out := make([][]uint64, len(p.Primes))
			for j := range out {
				out[j] = make([]uint64, n)
			}
			return out
		}
		agreed := map[bool]int{}
		for k := range rounds {
			logDelta := []int{1, 12, 20, 37, 50}[k%5]
			bound := uint64(1)<<(logDelta-1) - uint64(k%2)
			small := int64(rng.Uint64N(2*bound+5)) - int64(bound+2)
			residues := planes()
			for j, q := range p.Primes {
				for i := range n {
					if residues[j][i] = rng.Uint64N(2 * q); k%4 == 0 {
						residues[j][i] = []uint64{0, 1, q - 1, q, 2*q - 1}[rng.IntN(5)]
					}
					if i > 0 || k%3 == 0 { // the remainder decides
						residues[j][i] = uint64((small%int64(q) + int64(q)) % int64(q))
					}
				}
			}
			clone := func() [][]uint64 {
				out := planes()
				for j := range out {
					copy(out[j], residues[j])
				}
				return out
			}
			got, want := planes(), planes()
			ok := c.join(got, clone(), n, logDelta, bound)
			if any := c.joinAny(want, clone(), n, logDelta, bound); ok != any {
				t.Fatalf("%s, log Δ %d, bound %d: %v and %v", p.Name, logDelta, bound, ok, any)
			}
			agreed[ok]++
			for w := range want {
				if !slices.Equal(got[w], want[w]) {
					t.Fatalf("%s, log Δ %d: word %d: %x and %x", p.Name, logDelta, w, got[w], want[w])
				}
			}
		}
		if agreed[true] == 0 || agreed[false] == 0 {
			t.Errorf("%s: remainders %v, no two kinds", p.Name, agreed)
		}
	}
}

func TestWarmEncryptAndDecryptAllocateNothing(t *testing.T) {
	eachScheme(t, func(t *testing.T, s *params.Scheme) {
		e, secret := encryptorOf(t, s)
		d, err := NewDecryptor(s, testDigest, secret, 1, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		h := wholeHeader(s, 1)
		b, words := make([]byte, h.Size()), d.planes()
		if n := testing.AllocsPerRun(5, func() {
			e.Rounding(1, s.ChunkValues())
			if err := e.Encrypt(b, h, words); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("encrypt: %v allocations a chunk", n)
		}
		if n := testing.AllocsPerRun(5, func() {
			if err := d.Decrypt(words, b, h); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("decrypt: %v allocations a chunk", n)
		}
	})
}
