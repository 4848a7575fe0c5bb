package task

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cryptflow/cryptflow/go/errs"
)

// maxText bounds every name.
const maxText = 1 << 10

// writer appends canonical bytes: fixed order, little-endian, length-prefixed.
type writer struct{ b []byte }

func (w *writer) u8(v uint8)       { w.b = append(w.b, v) }
func (w *writer) u32(v uint32)     { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64)     { w.b = binary.LittleEndian.AppendUint64(w.b, v) }
func (w *writer) f32(v float32)    { w.u32(math.Float32bits(v)) }
func (w *writer) f64(v float64)    { w.u64(math.Float64bits(v)) }
func (w *writer) fixed(v [32]byte) { w.b = append(w.b, v[:]...) }
func (w *writer) text(s string)    { w.u32(uint32(len(s))); w.b = append(w.b, s...) }

// reader is the strict inverse; after the first fault it returns zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.b)) {
		r.err = fmt.Errorf("object ends early: %w", errs.ErrCanonical)
	}
	if r.err != nil {
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if v := r.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

func (r *reader) f32() float32 { return math.Float32frombits(r.u32()) }

func (r *reader) f64() float64 { return math.Float64frombits(r.u64()) }

func (r *reader) fixed() (v [32]byte) {
	copy(v[:], r.take(32))
	return v
}

func (r *reader) text() string { return string(r.limited(maxText)) }

func (r *reader) limited(limit int) []byte {
	n := r.u32()
	if n > uint32(limit) {
		r.fail("field of %d bytes, limit %d", n, limit)
	}
	return r.take(int(n))
}

// count reads how many items of at least size bytes follow and refuses a
// claim that the remaining bytes cannot hold.
func (r *reader) count(size int) int {
	n := r.u32()
	if r.err == nil && int64(n)*int64(size) > int64(len(r.b)) {
		r.fail("%d items claimed in %d bytes", n, len(r.b))
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format+": %w", append(args, errs.ErrCanonical)...)
	}
}

// open starts reading an object of the given domain tag.
func open(b []byte, tag string) *reader {
	r := &reader{b: b}
	if got := r.text(); r.err == nil && got != tag {
		r.fail("not a %s", tag)
	}
	return r
}

// close refuses trailing bytes.
func (r *reader) close() error {
	if r.err == nil && len(r.b) != 0 {
		r.fail("%d trailing bytes", len(r.b))
	}
	return r.err
}

func start(tag string) *writer {
	w := &writer{}
	w.text(tag)
	return w
}
