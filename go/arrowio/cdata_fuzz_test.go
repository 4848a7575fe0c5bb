//go:build cgo

package arrowio

import (
	"bytes"
	"errors"
	"testing"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/cryptflow/cryptflow/go/errs"
)

// foreignStructs are an exported array, in memory that is not Go's, as Python
// hands it over.
type foreignStructs struct {
	block  []byte
	array  *cArray
	schema *cSchema
}

func exported(t testing.TB, a arrow.Array) *foreignStructs {
	t.Helper()
	const size = 256
	x := &foreignStructs{block: Mem.Allocate(2 * size)}
	clear(x.block)
	x.array, x.schema = (*cArray)(unsafe.Pointer(&x.block[0])), (*cSchema)(unsafe.Pointer(&x.block[size]))
	arr, sch := x.addresses()
	if err := Export(a, arr, sch); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *foreignStructs) addresses() (arr, sch uintptr) {
	return uintptr(unsafe.Pointer(x.array)), uintptr(unsafe.Pointer(x.schema))
}

func (x *foreignStructs) free() { Mem.Free(x.block) }

const fuzzValues = 40

func fuzzFloats() arrow.Array {
	a, values := NewFloat32(fuzzValues)
	for i := range values {
		values[i] = float32(i)
	}
	return a
}

func fuzzBinary(t testing.TB) arrow.Array {
	b, err := NewBinary([]int{10, 10, 10, 10}, func(room []byte) error {
		for i := range room {
			room[i] = byte(i/10 + 1)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzCData: structs whose fields say anything are refused with a code, and
// what is taken is what was exported. Lengths and offsets beyond the buffers
// cannot be noticed: the interface carries no sizes; they are left out.
func FuzzCData(f *testing.F) {
	f.Add(false, int64(fuzzValues), int64(0), int64(0), int64(2), int64(0), int64(0), []byte("f"), uint16(0))
	f.Add(true, int64(4), int64(0), int64(0), int64(3), int64(0), int64(0), []byte("Z"), uint16(0))
	f.Add(false, int64(10), int64(0), int64(30), int64(2), int64(0), int64(0), []byte("f"), uint16(0))
	f.Add(true, int64(2), int64(0), int64(1), int64(3), int64(0), int64(0), []byte("Z"), uint16(0))
	for bit := range 10 {
		f.Add(bit%2 == 0, int64(4), int64(0), int64(0), int64(3-bit%2), int64(0), int64(0), []byte{"fZ"[1-bit%2]}, uint16(1)<<bit)
	}
	f.Add(false, int64(-1), int64(-1), int64(1)<<62, int64(1)<<40, int64(1), int64(1)<<33, []byte("tss:"), uint16(0))
	f.Fuzz(func(t *testing.T, binary bool, length, nulls, offset, buffers, children, schemaChildren int64, format []byte, holes uint16) {
		total := int64(fuzzValues)
		var a arrow.Array
		if binary {
			a, total = fuzzBinary(t), 4
		} else {
			a = fuzzFloats()
		}
		defer a.Release()
		if length > 0 && length <= MaxValues && offset >= 0 && offset <= MaxValues && length+offset > total {
			return
		}
		x := exported(t, a)
		defer x.free()
		array, schema := *x.array, *x.schema
		text, pairs := (*[2]byte)(unsafe.Pointer(x.schema.format)), (*[4]byte)(unsafe.Pointer(x.schema.metadata))
		keptText, keptPairs := *text, *pairs
		*text = [2]byte{} // in place: whoever releases the schema frees it
		copy(text[:], format)
		x.array.length, x.array.nullCount, x.array.offset, x.array.nBuffers, x.array.nChildren = length, nulls, offset, buffers, children
		x.schema.nChildren = schemaChildren
		hole := func(bit int) bool { return holes>>bit&1 != 0 }
		anywhere := unsafe.Pointer(&x.block[0])
		var kept [3]unsafe.Pointer
		copy(kept[:], x.array.buffers[:2])
		for bit, change := range []func(){
			func() { x.array.buffers = nil },
			func() { x.array.buffers[1] = nil },
			func() {
				if x.array.buffers[1] != nil {
					x.array.buffers[1] = unsafe.Add(x.array.buffers[1], 1)
				}
			},
			func() { x.array.dictionary = anywhere },
			func() { x.array.release = nil },
			func() { x.schema.release = nil },
			func() { x.schema.format = nil },
			func() { x.schema.dictionary = anywhere },
			func() { pairs[0] = 1 },
			func() { pairs[3] = 0x80 },
		} {
			if hole(bit) && (x.array.buffers != nil || bit > 2) {
				change()
			}
		}
		arr, sch := x.addresses()
		take := func() (int, error) {
			if binary {
				got, err := ImportBinary(arr, sch)
				if err != nil {
					return 0, err
				}
				defer got.Release()
				for i := range got.Len() {
					if !bytes.Equal(got.Value(i), bytes.Repeat([]byte{byte(int(offset)+i) + 1}, 10)) {
						t.Fatalf("item %d is another", i)
					}
				}
				return got.Len(), nil
			}
			got, err := ImportFloat32(arr, sch)
			if err != nil {
				return 0, err
			}
			defer got.Release()
			for i, v := range got.Float32Values() {
				if v != float32(int(offset)+i) {
					t.Fatalf("value %d is %v", i, v)
				}
			}
			return got.Len(), nil
		}
		n, err := take()
		if err == nil {
			if n != int(length) || x.array.release != nil || x.schema.release != nil {
				t.Fatal("not the array, or not moved")
			}
			return
		}
		if !errors.Is(err, errs.ErrArrow) {
			t.Fatalf("an error of another code: %v", err)
		}
		// What is refused still belongs to the caller, who can release it.
		*x.array, *x.schema = array, schema
		copy(x.array.buffers[:2], kept[:2])
		*text, *pairs = keptText, keptPairs
		if offset = 0; x.array.release == nil {
			t.Fatal("a refused array was released")
		}
		if _, err := take(); err != nil {
			t.Fatalf("a refused array is no longer whole: %v", err)
		}
	})
}

// FuzzOffsets: offsets of a binary column are refused unless they ascend.
func FuzzOffsets(f *testing.F) {
	f.Add(int64(0), int64(10), int64(20), int64(30), int64(40))
	f.Add(int64(0), int64(0), int64(0), int64(0), int64(0))
	f.Add(int64(-1), int64(10), int64(20), int64(30), int64(40))
	f.Add(int64(0), int64(20), int64(10), int64(30), int64(40))
	f.Add(int64(40), int64(30), int64(20), int64(10), int64(0))
	f.Fuzz(func(t *testing.T, a, b, c, d, e int64) {
		column := fuzzBinary(t)
		defer column.Release()
		x := exported(t, column)
		defer x.free()
		at := (*[5]int64)(x.array.buffers[1])
		*at = [5]int64{a, b, c, d, e}
		good := a >= 0 && a <= b && b <= c && c <= d && d <= e
		if good && e > 40 {
			*at = [5]int64{0, 0, 0, 0, 0} // beyond the data: no size says so
		}
		arr, sch := x.addresses()
		got, err := ImportBinary(arr, sch)
		if good != (err == nil) || (err != nil && !errors.Is(err, errs.ErrArrow)) {
			t.Fatalf("offsets %d %d %d %d %d: %v", a, b, c, d, e, err)
		}
		if err != nil {
			*at = [5]int64{}
			if got, err = ImportBinary(arr, sch); err != nil {
				t.Fatal(err)
			}
		}
		for i := range got.Len() {
			_ = got.Value(i)
		}
		got.Release()
	})
}

// TestSchemasThatLeadElsewhereAreRefused: Arrow's importer follows a schema's
// children, dictionary and metadata without knowing their length.
func TestSchemasThatLeadElsewhereAreRefused(t *testing.T) {
	a := fuzzFloats()
	defer a.Release()
	pairs := func(x *foreignStructs) *[4]byte { return (*[4]byte)(unsafe.Pointer(x.schema.metadata)) }
	for name, change := range map[string]func(x *foreignStructs){
		"children":   func(x *foreignStructs) { x.schema.nChildren = 1 },
		"dictionary": func(x *foreignStructs) { x.schema.dictionary = unsafe.Pointer(x.schema) },
		"metadata":   func(x *foreignStructs) { pairs(x)[3] = 1 },
	} {
		x := exported(t, a)
		schema := *x.schema
		change(x)
		if _, err := ImportFloat32(x.addresses()); !errors.Is(err, errs.ErrArrow) {
			t.Errorf("%s: %v", name, err)
		}
		*x.schema = schema
		*pairs(x) = [4]byte{}
		got, err := ImportFloat32(x.addresses())
		if err != nil {
			t.Fatal(err)
		}
		got.Release()
		x.free()
	}
}
