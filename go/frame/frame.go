// Package frame is the form in which ciphertexts travel and rest: a header of
// 40 bytes and bit-packed residues, exactly as long as the header says.
//
// Every ciphertext has one frame and every other byte string is an error, so
// frames can be compared, hashed and deduplicated as bytes. Header, packing
// and [Geometry] are described in docs/spec.md, §6.
//
// # Security
//
// Frames come from outside. Lengths follow from the preset and are compared
// before anything is read; every residue is compared with its prime without a
// branch on its value. Nothing here allocates in proportion to a claim.
//
// # Ownership
//
// No function keeps a reference to the bytes it is given.
//
// # Compatibility
//
// Version 1 never changes. A reader refuses versions it does not know.
package frame

import (
	"encoding/binary"
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

const (
	// HeaderSize is the length of a header in bytes.
	HeaderSize = 40
	// KeySize is the length of the key id: the first bytes of the digest of
	// the round's specification, or of the key's nonce in a public key.
	KeySize = 16

	magic   = "CFF1"
	version = 1
)

// Header says what a frame holds and where it belongs.
type Header struct {
	Preset       params.PresetID
	Encoding     params.Encoding
	Components   uint8 // polynomials of the ciphertext: 1 or 2
	Key          [KeySize]byte
	Chunk        uint32 // position within the update
	Terms        uint32 // ciphertexts added up in this frame
	Weight       uint32 // sum of their public weights
	Coefficients uint32 // of component 0; component 1 always has N
}

// Size is the length of a frame: the header, then per component and prime a
// block of residues. Component 0 has the given number of coefficients,
// component 1 has N.
func Size(p *params.Preset, components, coefficients int) int {
	size := HeaderSize + len(p.Primes)*BlockSize(coefficients, p.Width)
	if components == 2 {
		size += len(p.Primes) * BlockSize(p.N(), p.Width)
	}
	return size
}

// Size is the length of the frame that h heads. It is meaningful for headers
// that came from [ParseHeader] or [Geometry.Header].
func (h Header) Size() int {
	p, err := params.ByID(h.Preset)
	if err != nil {
		return 0
	}
	return Size(p, int(h.Components), int(h.Coefficients))
}

// Append appends the 40 bytes of h to dst.
func (h Header) Append(dst []byte) []byte {
	dst = append(dst, magic...)
	dst = append(dst, version, byte(h.Preset), byte(h.Encoding), h.Components)
	dst = append(dst, h.Key[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, h.Chunk)
	dst = binary.LittleEndian.AppendUint32(dst, h.Terms)
	dst = binary.LittleEndian.AppendUint32(dst, h.Weight)
	return binary.LittleEndian.AppendUint32(dst, h.Coefficients)
}

// ParseHeader reads the header at the start of b. The frame's length and
// residues are not looked at: see [Check].
func ParseHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, fmt.Errorf("%d bytes are too few for a header of %d: %w", len(b), HeaderSize, errs.ErrFrame)
	}
	if string(b[:4]) != magic {
		return h, fmt.Errorf("the first four bytes are not %q: %w", magic, errs.ErrFrame)
	}
	if b[4] != version {
		return h, fmt.Errorf("frame version %d; this build reads version %d: %w", b[4], version, errs.ErrFrame)
	}
	h.Preset = params.PresetID(b[5])
	h.Encoding = params.Encoding(b[6])
	h.Components = b[7]
	copy(h.Key[:], b[8:24])
	h.Chunk = binary.LittleEndian.Uint32(b[24:])
	h.Terms = binary.LittleEndian.Uint32(b[28:])
	h.Weight = binary.LittleEndian.Uint32(b[32:])
	h.Coefficients = binary.LittleEndian.Uint32(b[36:])
	return h, h.validate()
}

// validate reports why no ciphertext has the header h.
func (h Header) validate() error {
	p, err := params.ByID(h.Preset)
	if err != nil {
		return fmt.Errorf("unknown preset %d: %w", h.Preset, errs.ErrFrame)
	}
	switch {
	case !h.Encoding.Values() && h.Encoding != params.Control && h.Encoding != params.PublicKey:
		return fmt.Errorf("unknown encoding %d: %w", h.Encoding, errs.ErrFrame)
	case h.Components != 1 && h.Components != 2:
		return fmt.Errorf("%d components; a ciphertext has 1 or 2: %w", h.Components, errs.ErrFrame)
	case h.Coefficients == 0 || uint64(h.Coefficients) > uint64(p.N()):
		return fmt.Errorf("%d coefficients; %s has 1 to %d: %w", h.Coefficients, p.Name, p.N(), errs.ErrFrame)
	case h.Terms == 0 || h.Terms > params.MaxClients:
		return fmt.Errorf("%d terms; a sum has 1 to %d: %w", h.Terms, params.MaxClients, errs.ErrFrame)
	case h.Weight < h.Terms || h.Weight > h.Terms*params.MaxWeight:
		return fmt.Errorf("weights of %d terms sum to %d to %d, not to %d: %w", h.Terms, h.Terms, h.Terms*params.MaxWeight, h.Weight, errs.ErrFrame)
	case h.Components == 1 && h.Weight != h.Terms:
		return fmt.Errorf("a frame of one component has no public weights: %w", errs.ErrFrame)
	}
	if h.Encoding == params.PublicKey {
		if h.Components != 1 || h.Chunk != 0 || h.Terms != 1 || uint64(h.Coefficients) != uint64(p.N()) {
			return fmt.Errorf("a public key is one whole polynomial: %w", errs.ErrFrame)
		}
	}
	return nil
}

// Check says whether b is the whole and canonical frame that want describes.
// It returns ErrFrame for bytes that are no frame and ErrFrameContext for a
// frame that belongs elsewhere, and allocates nothing for a good frame.
func Check(b []byte, want Header) error {
	p, err := Expect(b, want)
	if err != nil {
		return err
	}
	var block [256]uint64
	body := b[HeaderSize:]
	for c := range int(want.Components) {
		n := int(want.Coefficients)
		if c == 1 {
			n = p.N()
		}
		size := BlockSize(n, p.Width)
		for j, q := range p.Primes {
			if !scan(&block, body[:size], n, p.Width, q) {
				return Noncanonical(c, j)
			}
			body = body[size:]
		}
	}
	return nil
}

// Expect compares the header and the length of b with want, without looking
// at residues, and returns the preset.
func Expect(b []byte, want Header) (*params.Preset, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	p, err := params.ByID(h.Preset)
	if err != nil {
		return nil, err
	}
	if size := Size(p, int(h.Components), int(h.Coefficients)); len(b) != size {
		return nil, fmt.Errorf("the frame has %d bytes and its header says %d: %w", len(b), size, errs.ErrFrame)
	}
	if h != want {
		return nil, h.mismatch(want)
	}
	return p, nil
}

// Noncanonical is the error for residues or padding of the given component
// and prime that no encoder writes.
func Noncanonical(component, prime int) error {
	return fmt.Errorf("component %d, prime %d: a residue is not below the prime or padding is not zero: %w", component, prime, errs.ErrFrame)
}

func scan(block *[256]uint64, src []byte, n, width int, q uint64) bool {
	for n > len(block) {
		step := BlockSize(len(block), width)
		if !Unpack(block[:], src[:step], width, q) {
			return false
		}
		src, n = src[step:], n-len(block)
	}
	return Unpack(block[:n], src, width, q)
}

func (h Header) mismatch(want Header) error {
	field, got, expected := "", uint64(0), uint64(0)
	switch {
	case h.Key != want.Key:
		return fmt.Errorf("key id %x, expected %x: %w", h.Key, want.Key, errs.ErrFrameContext)
	case h.Preset != want.Preset:
		field, got, expected = "preset", uint64(h.Preset), uint64(want.Preset)
	case h.Encoding != want.Encoding:
		field, got, expected = "encoding", uint64(h.Encoding), uint64(want.Encoding)
	case h.Components != want.Components:
		field, got, expected = "components", uint64(h.Components), uint64(want.Components)
	case h.Chunk != want.Chunk:
		field, got, expected = "chunk", uint64(h.Chunk), uint64(want.Chunk)
	case h.Terms != want.Terms:
		field, got, expected = "terms", uint64(h.Terms), uint64(want.Terms)
	case h.Weight != want.Weight:
		field, got, expected = "weight", uint64(h.Weight), uint64(want.Weight)
	default:
		field, got, expected = "coefficients", uint64(h.Coefficients), uint64(want.Coefficients)
	}
	return fmt.Errorf("%s %d, expected %d: %w", field, got, expected, errs.ErrFrameContext)
}
