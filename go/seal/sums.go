package seal

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math"

	"github.com/cryptflow/cryptflow/go/errs"
)

// chunkSum is the digest of the integers that a chunk opened to.
type chunkSum struct {
	digest [sha256.Size]byte
	known  bool
}

// sumsTag begins the digest of a whole sum. docs/spec.md states its bytes.
const sumsTag = "cryptflow/v1/sums"

// Sums is the digest of the integers that the sum opened to, after every frame
// was opened. Clients compare it through the key service. It does not depend on
// residual noise, so that an aggregator that publishes the same sum with other
// noise changes nothing, and one that shows clients different sums is noticed.
func (o *Opener) Sums() ([sha256.Size]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := sha256.New()
	h.Write([]byte(sumsTag))
	h.Write(o.round.SpecDigest[:])
	for index, s := range o.sums {
		if !s.known {
			return s.digest, fmt.Errorf("frame %d was not opened: %w", index, errs.ErrState)
		}
		h.Write(s.digest[:])
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// sumHasher digests the integers of chunks, in room that it keeps.
type sumHasher struct {
	hash hash.Hash
	room []byte
	out  [sha256.Size]byte
}

func newSumHasher() *sumHasher { return &sumHasher{hash: sha256.New(), room: make([]byte, 0, 4096)} }

func (s *sumHasher) begin() {
	s.hash.Reset()
	s.room = s.room[:0]
}

func (s *sumHasher) put(v uint64) {
	if s.room = binary.LittleEndian.AppendUint64(s.room, v); len(s.room) == cap(s.room) {
		s.hash.Write(s.room)
		s.room = s.room[:0]
	}
}

func (s *sumHasher) end() chunkSum {
	s.hash.Write(s.room)
	s.hash.Sum(s.out[:0])
	return chunkSum{digest: s.out, known: true}
}

// integers digests the first n coefficients of a plaintext, word after word.
func (s *sumHasher) integers(words [][]uint64, n int) chunkSum {
	s.begin()
	for _, plane := range words {
		for _, v := range plane[:n] {
			s.put(v)
		}
	}
	return s.end()
}

// values digests the values of a chunk of slots, which leave the key holder
// rounded.
func (s *sumHasher) values(out []float32) chunkSum {
	s.begin()
	for _, v := range out {
		s.put(uint64(math.Float32bits(v)))
	}
	return s.end()
}

// entries digests the sums of the control chunk's entries.
func (s *sumHasher) entries(low, high []uint64) chunkSum {
	s.begin()
	for k := range low {
		s.put(low[k])
		s.put(high[k])
	}
	return s.end()
}
