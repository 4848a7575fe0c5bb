package arrowio

import (
	"encoding/binary"
	"fmt"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/flight"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/cryptflow/cryptflow/go/errs"
)

// frameSchema is the only one that travels: one column of whole frames.
var frameSchema = arrow.NewSchema([]arrow.Field{{Name: "frame", Type: arrow.BinaryTypes.LargeBinary}}, nil)

// Limits of one message.
const (
	maxRows   = 1 << 14 // frames; the smallest frame has some hundred bytes
	indexSize = 8
)

// Positions of the fields that are looked at, from Arrow's Message.fbs and
// Schema.fbs.
const (
	headerSchema, headerBatch         = 1, 3
	typeLargeBinary                   = 19
	slotHeaderType, slotHeader        = 6, 8
	slotBodyLength, slotMessageCustom = 10, 12
	slotRows, slotNodes, slotBuffers  = 4, 6, 8
	slotCompression                   = 10
	slotFields, slotSchemaCustom      = 6, 8
	slotName, slotNullable, slotType  = 4, 6, 8
	slotDictionary, slotChildren      = 12, 14
	slotFieldCustom                   = 16
)

// checkMessage looks at a message's own description before Arrow's reader
// acts on it: only one schema is taken, only plain record batches follow, and
// a batch claims no more than the bytes at hand. Whatever the bytes are, it
// returns.
func checkMessage(d *flight.FlightData, first bool) (err error) {
	defer func() {
		if recover() != nil { // an offset that leads outside
			err = fmt.Errorf("the message's description is damaged: %w", errs.ErrArrow)
		}
	}()
	if len(d.DataHeader) < 8 {
		return fmt.Errorf("a message without a description: %w", errs.ErrArrow)
	}
	m := flatbuffers.Table{Bytes: d.DataHeader, Pos: flatbuffers.GetUOffsetT(d.DataHeader)}
	if m.Offset(slotMessageCustom) != 0 {
		return fmt.Errorf("a message with metadata: %w", errs.ErrArrow)
	}
	kind := m.GetByteSlot(slotHeaderType, 0)
	var h flatbuffers.Table
	at := flatbuffers.UOffsetT(m.Offset(slotHeader))
	if at == 0 {
		return fmt.Errorf("a message without a header: %w", errs.ErrArrow)
	}
	m.Union(&h, at)
	if n := m.GetInt64Slot(slotBodyLength, 0); n != int64(len(d.DataBody)) {
		return fmt.Errorf("a message claims a body of %d bytes and has %d: %w", n, len(d.DataBody), errs.ErrArrow)
	}
	switch {
	case first && kind == headerSchema:
		return checkSchema(h)
	case !first && kind == headerBatch:
		return checkBatch(h, int64(len(d.DataBody)))
	}
	return fmt.Errorf("a message of kind %d: %w", kind, errs.ErrArrow)
}

func checkSchema(h flatbuffers.Table) error {
	bad := fmt.Errorf("the schema is not one column frame: large_binary not null: %w", errs.ErrArrow)
	at := flatbuffers.UOffsetT(h.Offset(slotFields))
	if at == 0 || h.VectorLen(at) != 1 || (h.Offset(slotSchemaCustom) != 0 && h.VectorLen(flatbuffers.UOffsetT(h.Offset(slotSchemaCustom))) != 0) {
		return bad
	}
	f := flatbuffers.Table{Bytes: h.Bytes, Pos: h.Indirect(h.Vector(at))}
	name := flatbuffers.UOffsetT(f.Offset(slotName))
	switch {
	case name == 0 || string(f.ByteVector(f.Pos+name)) != frameSchema.Field(0).Name,
		f.GetBoolSlot(slotNullable, false),
		f.GetByteSlot(slotType, 0) != typeLargeBinary,
		f.Offset(slotDictionary) != 0:
		return bad
	}
	for _, slot := range []flatbuffers.VOffsetT{slotChildren, slotFieldCustom} {
		if at := flatbuffers.UOffsetT(f.Offset(slot)); at != 0 && f.VectorLen(at) != 0 {
			return bad
		}
	}
	return nil
}

func checkBatch(h flatbuffers.Table, body int64) error {
	rows := h.GetInt64Slot(slotRows, 0)
	nodes, buffers := flatbuffers.UOffsetT(h.Offset(slotNodes)), flatbuffers.UOffsetT(h.Offset(slotBuffers))
	switch {
	case h.Offset(slotCompression) != 0:
		return fmt.Errorf("a compressed batch: %w", errs.ErrArrow)
	case rows < 1 || rows > maxRows:
		return fmt.Errorf("a batch of %d rows, 1 to %d are taken: %w", rows, maxRows, errs.ErrArrow)
	case nodes == 0 || buffers == 0 || h.VectorLen(nodes) != 1 || h.VectorLen(buffers) != 3:
		return fmt.Errorf("a batch of another shape than one binary column: %w", errs.ErrArrow)
	}
	at := h.Vector(nodes)
	if n, nulls := h.GetInt64(at), h.GetInt64(at+8); n != rows || nulls != 0 {
		return fmt.Errorf("a column of %d rows and %d nulls in a batch of %d: %w", n, nulls, rows, errs.ErrArrow)
	}
	at = h.Vector(buffers)
	for k := range flatbuffers.UOffsetT(3) {
		from, size := h.GetInt64(at+16*k), h.GetInt64(at+16*k+8)
		if from < 0 || size < 0 || from > body || size > body-from {
			return fmt.Errorf("a buffer of %d bytes at %d in a body of %d: %w", size, from, body, errs.ErrArrow)
		}
		if k == 1 && size < 8*(rows+1) {
			return fmt.Errorf("%d bytes of offsets for %d rows: %w", size, rows, errs.ErrArrow)
		}
	}
	return nil
}

// framesOf returns the column of a batch after checking what its values would
// be read from.
func framesOf(r arrow.Record) (*array.LargeBinary, error) {
	if r.NumCols() != 1 {
		return nil, fmt.Errorf("%d columns: %w", r.NumCols(), errs.ErrArrow)
	}
	col, ok := r.Column(0).(*array.LargeBinary)
	if !ok || col.NullN() != 0 || col.Len() < 1 {
		return nil, fmt.Errorf("not a column of frames: %w", errs.ErrArrow)
	}
	data := col.Data()
	buffers := data.Buffers()
	if len(buffers) != 3 || buffers[1] == nil || buffers[1].Len() < 8*(data.Offset()+col.Len()+1) {
		return nil, fmt.Errorf("too few offsets: %w", errs.ErrArrow)
	}
	size := int64(0)
	if buffers[2] != nil {
		size = int64(buffers[2].Len())
	}
	last := int64(0)
	for i := range col.Len() + 1 {
		at := int64(binary.LittleEndian.Uint64(buffers[1].Bytes()[8*(data.Offset()+i):]))
		if at < last || at > size || (i > 0 && at == last) {
			return nil, fmt.Errorf("offsets that do not ascend within the data: %w", errs.ErrArrow)
		}
		last = at
	}
	return col, nil
}

// bounded is an allocator that refuses more than a limit by panicking, which
// the guarded reader turns into an error.
type bounded struct {
	memory.Allocator
	left int
}

func (b *bounded) Allocate(n int) []byte {
	if n < 0 || n > b.left {
		panic("over the limit")
	}
	b.left -= n
	return b.Allocator.Allocate(n)
}

func (b *bounded) Reallocate(n int, old []byte) []byte {
	if n < 0 || n-len(old) > b.left {
		panic("over the limit")
	}
	b.left -= n - len(old)
	return b.Allocator.Reallocate(n, old)
}

func (b *bounded) Free(old []byte) {
	b.left += len(old)
	b.Allocator.Free(old)
}

// source is what both ends receive messages from.
type source interface {
	Recv() (*flight.FlightData, error)
}

// checked passes on messages that may be decoded.
type checked struct {
	source
	n          int
	descriptor *flight.FlightDescriptor
	failed     error
}

func (c *checked) Recv() (*flight.FlightData, error) {
	d, err := c.source.Recv()
	if err != nil {
		return nil, err
	}
	if err := checkMessage(d, c.n == 0); err != nil {
		c.failed = err
		return nil, err
	}
	if c.n == 0 {
		c.descriptor = d.FlightDescriptor
	} else if d.FlightDescriptor != nil {
		c.failed = fmt.Errorf("a second descriptor: %w", errs.ErrArrow)
		return nil, c.failed
	}
	c.n++
	return d, nil
}

// batches decodes a stream of frames.
type batches struct {
	checked *checked
	reader  *flight.Reader
}

func newBatches(s source, limit int) (b *batches, err error) {
	b = &batches{checked: &checked{source: s}}
	defer b.recovered(&err)
	memory := &bounded{Allocator: memory.NewGoAllocator(), left: limit}
	b.reader, err = flight.NewRecordReader(b.checked, ipc.WithAllocator(memory))
	if err != nil {
		return nil, b.cause(err)
	}
	if !b.reader.Schema().Equal(frameSchema) {
		return nil, fmt.Errorf("the schema is not one column frame: large_binary not null: %w", errs.ErrArrow)
	}
	return b, nil
}

// cause prefers what the check said to what Arrow made of it.
func (b *batches) cause(err error) error {
	if b.checked.failed != nil {
		return b.checked.failed
	}
	return err
}

func (b *batches) recovered(err *error) {
	if recover() != nil {
		*err = fmt.Errorf("the batch cannot be decoded: %w", errs.ErrArrow)
	}
}

// next returns the frames of one more batch, and nil at the end of the stream.
// They are valid until the next call.
func (b *batches) next() (frames *array.LargeBinary, metadata []byte, err error) {
	defer b.recovered(&err)
	if !b.reader.Next() {
		return nil, nil, b.cause(b.reader.Err())
	}
	frames, err = framesOf(b.reader.Record())
	return frames, b.reader.LatestAppMetadata(), err
}
