//go:build cgo

package arrowio

import (
	"fmt"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/cdata"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/arrow/memory/mallocator"

	"github.com/cryptflow/cryptflow/go/errs"
)

// MaxValues bounds the length of one imported array.
const MaxValues = 1 << 36

// Mem is C memory: exported buffers may not live in the Go heap.
var Mem = mallocator.NewMallocator()

// Binary and Float32 are Arrow's arrays, for rooms that do not import Arrow.
type (
	Binary  = array.LargeBinary
	Float32 = array.Float32
)

// cArray and cSchema mirror the C Data Interface ABI.
type cArray struct {
	length, nullCount, offset, nBuffers, nChildren int64
	buffers                                        *[8]unsafe.Pointer
	children, dictionary, release, private         unsafe.Pointer
}

type cSchema struct {
	format, name, metadata                 *byte
	flags, nChildren                       int64
	children, dictionary, release, private unsafe.Pointer
}

// ImportFloat32 takes ownership of a non-null, dense float32 array. On error
// the structs still belong to the caller. The values alias foreign memory and
// die with Release.
func ImportFloat32(arr, sch uintptr) (*array.Float32, error) {
	if err := check(arr, sch, 'f', 4); err != nil {
		return nil, err
	}
	got, err := importOne(arr, sch)
	if err != nil {
		return nil, err
	}
	f, ok := got.(*array.Float32)
	if !ok {
		got.Release()
		return nil, fmt.Errorf("want float32, got %s: %w", got.DataType(), errs.ErrArrow)
	}
	return f, nil
}

// ImportBinary takes ownership of a large-binary array.
func ImportBinary(arr, sch uintptr) (*array.LargeBinary, error) {
	if err := check(arr, sch, 'Z', 8); err != nil {
		return nil, err
	}
	if err := checkOffsets((*cArray)(unsafe.Pointer(cdata.ArrayFromPtr(arr)))); err != nil {
		return nil, err
	}
	got, err := importOne(arr, sch)
	if err != nil {
		return nil, err
	}
	b, ok := got.(*array.LargeBinary)
	if !ok {
		got.Release()
		return nil, fmt.Errorf("want large_binary, got %s: %w", got.DataType(), errs.ErrArrow)
	}
	return b, nil
}

// Export moves a into zeroed C structs at arr and sch.
func Export(a arrow.Array, arr, sch uintptr) error {
	if err := CheckOut(arr, sch); err != nil {
		return err
	}
	cdata.ExportArrowArray(a, cdata.ArrayFromPtr(arr), cdata.SchemaFromPtr(sch))
	return nil
}

// CheckOut reports whether arr and sch can receive an export.
func CheckOut(arr, sch uintptr) error {
	if arr == 0 || sch == 0 || arr%8 != 0 || sch%8 != 0 {
		return fmt.Errorf("output struct address is null or misaligned: %w", errs.ErrArrow)
	}
	a := (*cArray)(unsafe.Pointer(cdata.ArrayFromPtr(arr)))
	s := (*cSchema)(unsafe.Pointer(cdata.SchemaFromPtr(sch)))
	if a.release != nil || s.release != nil {
		return fmt.Errorf("output struct is not zeroed: %w", errs.ErrArrow)
	}
	return nil
}

// NewFloat32 allocates an exportable array of n values.
func NewFloat32(n int) (*array.Float32, []float32) {
	buf := memory.NewResizableBuffer(Mem)
	buf.Resize(4 * n)
	huge(buf.Bytes())
	defer buf.Release()
	d := array.NewData(arrow.PrimitiveTypes.Float32, n, []*memory.Buffer{nil, buf}, nil, 0, 0)
	defer d.Release()
	return array.NewFloat32Data(d), arrow.Float32Traits.CastFromBytes(buf.Bytes())
}

// checkOffsets refuses offsets that do not ascend from zero or more: values
// would be read from outside the buffer.
func checkOffsets(a *cArray) error {
	offsets := unsafe.Slice((*int64)(a.buffers[1]), a.offset+a.length+1)[a.offset:]
	last := int64(0)
	for _, v := range offsets {
		if v < last {
			return fmt.Errorf("offsets do not ascend: %w", errs.ErrArrow)
		}
		last = v
	}
	if last > 0 && a.buffers[2] == nil {
		return fmt.Errorf("values buffer is null: %w", errs.ErrArrow)
	}
	return nil
}

func importOne(arr, sch uintptr) (arrow.Array, error) {
	_, got, err := cdata.ImportCArray(cdata.ArrayFromPtr(arr), cdata.SchemaFromPtr(sch))
	if err != nil {
		return nil, fmt.Errorf("importing: %w: %w", err, errs.ErrArrow)
	}
	return got, nil
}

func check(arr, sch uintptr, format byte, align uintptr) error {
	if arr == 0 || sch == 0 || arr%8 != 0 || sch%8 != 0 {
		return fmt.Errorf("input struct address is null or misaligned: %w", errs.ErrArrow)
	}
	a := (*cArray)(unsafe.Pointer(cdata.ArrayFromPtr(arr)))
	s := (*cSchema)(unsafe.Pointer(cdata.SchemaFromPtr(sch)))
	want := int64(2)
	if format == 'Z' {
		want = 3
	}
	switch {
	case a.release == nil || s.release == nil:
		return fmt.Errorf("input struct was already consumed: %w", errs.ErrArrow)
	case s.format == nil || *s.format != format || *(*byte)(unsafe.Add(unsafe.Pointer(s.format), 1)) != 0:
		return fmt.Errorf("unsupported Arrow format, want %q: %w", format, errs.ErrArrow)
	case a.length <= 0 || a.length > MaxValues || a.offset < 0 || a.offset > MaxValues:
		return fmt.Errorf("length %d offset %d: %w", a.length, a.offset, errs.ErrArrow)
	case a.nullCount != 0:
		return fmt.Errorf("null_count is %d, want 0: %w", a.nullCount, errs.ErrArrow)
	case s.nChildren != 0 || s.dictionary != nil || (s.metadata != nil && *(*[4]byte)(unsafe.Pointer(s.metadata)) != [4]byte{}):
		// Arrow's importer would follow each of these without a length;
		// metadata begins with its number of pairs.
		return fmt.Errorf("a schema with children, a dictionary or metadata: %w", errs.ErrArrow)
	case a.nBuffers != want || a.nChildren != 0 || a.dictionary != nil || a.buffers == nil:
		return fmt.Errorf("n_buffers %d n_children %d: %w", a.nBuffers, a.nChildren, errs.ErrArrow)
	case a.buffers[1] == nil || uintptr(a.buffers[1])%align != 0:
		return fmt.Errorf("values buffer is null or misaligned: %w", errs.ErrArrow)
	}
	return nil
}

// NewBinary makes an exportable large-binary array of byte strings of the
// given sizes. fill gets room for all of them, one after the other, of any
// content.
func NewBinary(sizes []int, fill func(room []byte) error) (*array.LargeBinary, error) {
	ends := memory.NewResizableBuffer(Mem)
	defer ends.Release()
	ends.Resize(arrow.Int64Traits.BytesRequired(len(sizes) + 1))
	offsets := arrow.Int64Traits.CastFromBytes(ends.Bytes())
	offsets[0] = 0
	for i, size := range sizes {
		offsets[i+1] = offsets[i] + int64(size)
	}
	room := memory.NewResizableBuffer(Mem)
	defer room.Release()
	room.Resize(int(offsets[len(sizes)]))
	huge(room.Bytes())
	if err := fill(room.Bytes()); err != nil {
		return nil, err
	}
	d := array.NewData(arrow.BinaryTypes.LargeBinary, len(sizes), []*memory.Buffer{nil, ends, room}, nil, 0, 0)
	defer d.Release()
	return array.NewLargeBinaryData(d), nil
}
