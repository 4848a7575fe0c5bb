package ckks

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/tuneinsight/lattigo/v5/core/rlwe"

	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

// message is a random plaintext of n coefficients below 2^(L·(β+g)).
func message(rng *rand.Rand, s *params.Scheme, n int) [][]uint64 {
	m := make([][]uint64, len(s.Primes))
	for w := range m {
		m[w] = make([]uint64, s.N())
		free := max(0, min(64, s.Lanes*s.LaneWidth()-64*w))
		for i := range n {
			m[w][i] = rng.Uint64() >> (64 - free)
			if i%7 == 0 { // extremes
				m[w][i] = ^uint64(0) >> (64 - free) * uint64(i/7%2)
			}
		}
	}
	return m
}

// scaled is Δ·m of coefficient i.
func scaled(m [][]uint64, i, logDelta int) *big.Int {
	v := new(big.Int)
	for w := len(m) - 1; w >= 0; w-- {
		v.Lsh(v, 64).Or(v, new(big.Int).SetUint64(m[w][i]))
	}
	return v.Lsh(v, uint(logDelta))
}

// peer is lattigo set up for a preset.
type peer struct {
	params rlwe.Parameters
	*context
}

func newPeer(t *testing.T, p *params.Preset) *peer {
	t.Helper()
	c, err := contextOf(p)
	if err != nil {
		t.Fatal(err)
	}
	q, err := rlwe.NewParametersFromLiteral(rlwe.ParametersLiteral{LogN: p.LogN, Q: p.Primes, NTTFlag: true})
	if err != nil {
		t.Fatal(err)
	}
	return &peer{q, c}
}

// key is lattigo's form of our secret.
func (p *peer) key(small []int32) *rlwe.SecretKey {
	sk := rlwe.NewSecretKey(p.params)
	for j := range p.fields {
		p.fields[j].load(sk.Value.Q.Coeffs[j], small)
	}
	return sk
}

// small is our form of lattigo's secret.
func (p *peer) small(sk *rlwe.SecretKey) []int32 {
	r := p.params.RingQ()
	poly := *sk.Value.Q.CopyNew()
	r.IMForm(poly, poly)
	r.INTT(poly, poly)
	out := make([]int32, p.N())
	for i, v := range poly.Coeffs[0] {
		if out[i] = int32(v); v > p.fields[0].q/2 {
			out[i] = int32(int64(v) - int64(p.fields[0].q))
		}
	}
	return out
}

// ciphertext is lattigo's form of a whole frame: residues in the NTT domain,
// with a from the expander where the frame has one component.
func (p *peer) ciphertext(t *testing.T, b []byte, h frame.Header, x *expander) *rlwe.Ciphertext {
	t.Helper()
	ct := rlwe.NewCiphertext(p.params, 1, p.params.MaxLevel())
	body, size := b[frame.HeaderSize:], frame.BlockSize(p.N(), p.Width)
	for c := range 2 {
		for j, q := range p.Primes {
			dst := ct.Value[c].Coeffs[j]
			if c == int(h.Components) {
				x.expand(dst, h.Chunk, j, q, p.Width)
				continue
			}
			if !frame.Unpack(dst, body[:size], p.Width, q) {
				t.Fatal("our own frame is not canonical")
			}
			p.fields[j].sub.NTT(dst, dst)
			body = body[size:]
		}
	}
	return ct
}

func schemeOf(t testing.TB, preset string, mode params.Mode) *params.Scheme {
	t.Helper()
	c := params.Choice{Preset: preset, Mode: mode, Bits: 8, Clients: 4, Weight: 1, Rounding: params.Stochastic}
	s, err := params.NewScheme(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func eachScheme(t *testing.T, f func(t *testing.T, s *params.Scheme)) {
	for _, p := range params.Presets() {
		for _, mode := range []params.Mode{params.SumKey, params.SharedKey} {
			t.Run(fmt.Sprintf("%s/%v", p.Name, mode), func(t *testing.T) { f(t, schemeOf(t, p.Name, mode)) })
		}
	}
}

var testDigest, testNonce = [32]byte{1, 2, 3}, [32]byte{7, 8, 9}

// encryptorOf makes an encryptor of either mode and the secret that opens it.
func encryptorOf(t testing.TB, s *params.Scheme) (*Encryptor, []int32) {
	t.Helper()
	if s.Mode == params.SumKey {
		e, err := NewSumKeyEncryptor(s, testDigest, Seed{1}, Seed{2}, nil)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := SumSecrets(s.Preset, testDigest, []Seed{{1}})
		if err != nil {
			t.Fatal(err)
		}
		return e, secret
	}
	secret, pk, err := GenerateKeyPair(s.Preset, testNonce, Seed{3})
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewPublicKeyEncryptor(s, testDigest, testNonce, pk, Seed{2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e, secret
}

func wholeHeader(s *params.Scheme, chunk uint32) frame.Header {
	g := frame.Geometry{Scheme: s, Values: int64(s.ChunkValues()) * 9, Controls: 2, Key: [16]byte(testDigest[:16])}
	return g.Header(int(chunk))
}

func TestLattigoOpensOurCiphertexts(t *testing.T) {
	eachScheme(t, func(t *testing.T, s *params.Scheme) {
		p := newPeer(t, s.Preset)
		e, secret := encryptorOf(t, s)
		h := wholeHeader(s, 5)
		m := message(rand.New(rand.NewPCG(1, 5)), s, s.N())
		b := make([]byte, h.Size())
		if err := e.Encrypt(b, h, m); err != nil {
			t.Fatal(err)
		}
		x, err := newExpander(&testDigest, s.N())
		if err != nil {
			t.Fatal(err)
		}
		pt := rlwe.NewDecryptor(p.params, p.key(secret)).DecryptNew(p.ciphertext(t, b, h, x))
		r := p.params.RingQ()
		r.INTT(pt.Value, pt.Value)
		got := make([]*big.Int, s.N())
		for i := range got {
			got[i] = new(big.Int)
		}
		r.PolyToBigint(pt.Value, 1, got)
		q, bound := s.Q(), new(big.Int).SetUint64(s.NoiseBound(1))
		noisy := 0
		for i, v := range got {
			v.Sub(v, scaled(m, i, s.LogDelta)).Mod(v, q)
			if v.Cmp(new(big.Int).Rsh(q, 1)) > 0 {
				v.Sub(v, q)
			}
			if v.CmpAbs(bound) > 0 {
				t.Fatalf("coefficient %d: lattigo's decryption differs by %v, the bound is %v", i, v, bound)
			}
			if v.Sign() != 0 {
				noisy++
			}
		}
		if noisy < s.N()/2 {
			t.Fatalf("only %d of %d coefficients carry noise", noisy, s.N())
		}
	})
}

// fixed is a generator that yields given bytes.
type fixed struct{ b []byte }

func (f *fixed) Read(b []byte) (int, error) {
	n := copy(b, f.b)
	f.b = f.b[n:]
	return len(b), nil
}

func TestWeOpenLattigosCiphertexts(t *testing.T) {
	eachScheme(t, func(t *testing.T, s *params.Scheme) {
		p := newPeer(t, s.Preset)
		h := wholeHeader(s, 6)
		generator := rlwe.NewKeyGenerator(p.params)
		sk := generator.GenSecretKeyNew()
		encryptor := rlwe.NewEncryptor(p.params, generator.GenPublicKeyNew(sk))
		if s.Mode == params.SumKey {
			// Lattigo draws the uniform half; let it draw ours.
			x, err := newExpander(&testDigest, s.N())
			if err != nil {
				t.Fatal(err)
			}
			stream, a := &fixed{}, make([]uint64, s.N())
			for j, q := range s.Primes {
				x.expand(a, h.Chunk, j, q, s.Width)
				for _, v := range a {
					stream.b = binary.BigEndian.AppendUint64(stream.b, v)
				}
			}
			encryptor = rlwe.NewEncryptor(p.params, sk).WithPRNG(stream)
		}
		m := message(rand.New(rand.NewPCG(2, 5)), s, s.N())
		pt := rlwe.NewPlaintext(p.params, p.params.MaxLevel())
		for j, q := range s.Primes {
			for i := range s.N() {
				v := scaled(m, i, s.LogDelta)
				pt.Value.Coeffs[j][i] = v.Mod(v, new(big.Int).SetUint64(q)).Uint64()
			}
		}
		r := p.params.RingQ()
		r.NTT(pt.Value, pt.Value)
		ct, err := encryptor.EncryptNew(pt)
		if err != nil {
			t.Fatal(err)
		}
		b := h.Append(nil)
		for c := range int(h.Components) {
			r.INTT(ct.Value[c], ct.Value[c])
			for j := range s.Primes {
				block := make([]byte, frame.BlockSize(s.N(), s.Width))
				frame.Pack(block, ct.Value[c].Coeffs[j], s.Width)
				b = append(b, block...)
			}
		}
		d, err := NewDecryptor(s, testDigest, p.small(sk), 1, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		words := d.planes()
		if err := d.Decrypt(words, b, h); err != nil {
			t.Fatal(err)
		}
		for w := range m {
			for i, v := range m[w] {
				if words[w][i] != v {
					t.Fatalf("coefficient %d, word %d: %#x, want %#x", i, w, words[w][i], v)
				}
			}
		}
	})
}
