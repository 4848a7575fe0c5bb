package arrowio

import (
	"fmt"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/flight"
	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/cryptflow/cryptflow/go/errs"
)

// frameSchema is the only one that travels: one column of whole frames.
var frameSchema = arrow.NewSchema([]arrow.Field{{Name: "frame", Type: arrow.BinaryTypes.LargeBinary}}, nil)

// Limits of one message.
const (
	maxRows   = 1 << 14 // frames; the smallest frame has some hundred bytes
	maxIndex  = 1<<31 - 1 - maxRows
	maxName   = 64 // bytes of an upload's name
	indexSize = 8
)

// Positions of the fields that are looked at, from Arrow's Message.fbs and
// Schema.fbs.
const (
	metadataV5                        = 4
	headerSchema, headerBatch         = 1, 3
	typeLargeBinary                   = 19
	slotVersion                       = 4
	slotHeaderType, slotHeader        = 6, 8
	slotBodyLength, slotMessageCustom = 10, 12
	slotRows, slotNodes, slotBuffers  = 4, 6, 8
	slotCompression                   = 10
	slotEndianness                    = 4
	slotFields, slotSchemaCustom      = 6, 8
	slotName, slotNullable, slotType  = 4, 6, 8
	slotDictionary, slotChildren      = 12, 14
	slotFieldCustom                   = 16
)

// checkMessage looks at a message's own description before Arrow's reader
// acts on it: only one schema is taken, only plain record batches follow, and
// a batch claims no more than the bytes at hand. It returns a batch's frames.
// Whatever the bytes are, it returns.
func checkMessage(d *flight.FlightData, first bool) (frames *column, err error) {
	defer func() {
		if recover() != nil { // an offset that leads outside
			frames, err = nil, fmt.Errorf("the message's description is damaged: %w", errs.ErrArrow)
		}
	}()
	if len(d.DataHeader) < 8 {
		return nil, fmt.Errorf("a message without a description: %w", errs.ErrArrow)
	}
	m := flatbuffers.Table{Bytes: d.DataHeader, Pos: flatbuffers.GetUOffsetT(d.DataHeader)}
	if m.Offset(slotMessageCustom) != 0 {
		return nil, fmt.Errorf("a message with metadata: %w", errs.ErrArrow)
	}
	if v := m.GetInt16Slot(slotVersion, 0); v != metadataV5 {
		return nil, fmt.Errorf("metadata version %d, want %d: %w", v, metadataV5, errs.ErrArrow)
	}
	kind := m.GetByteSlot(slotHeaderType, 0)
	var h flatbuffers.Table
	at := flatbuffers.UOffsetT(m.Offset(slotHeader))
	if at == 0 {
		return nil, fmt.Errorf("a message without a header: %w", errs.ErrArrow)
	}
	m.Union(&h, at)
	if n := m.GetInt64Slot(slotBodyLength, 0); n != int64(len(d.DataBody)) {
		return nil, fmt.Errorf("a message claims a body of %d bytes and has %d: %w", n, len(d.DataBody), errs.ErrArrow)
	}
	switch {
	case first && kind == headerSchema:
		return nil, checkSchema(h)
	case !first && kind == headerBatch:
		return checkBatch(h, d.DataBody)
	}
	return nil, fmt.Errorf("a message of kind %d: %w", kind, errs.ErrArrow)
}

func checkSchema(h flatbuffers.Table) error {
	bad := fmt.Errorf("the schema is not one column frame: large_binary not null: %w", errs.ErrArrow)
	if h.GetInt16Slot(slotEndianness, 0) != 0 {
		return fmt.Errorf("numbers are not little-endian: %w", errs.ErrArrow)
	}
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

func checkBatch(h flatbuffers.Table, body []byte) (*column, error) {
	rows := h.GetInt64Slot(slotRows, 0)
	nodes, buffers := flatbuffers.UOffsetT(h.Offset(slotNodes)), flatbuffers.UOffsetT(h.Offset(slotBuffers))
	switch {
	case h.Offset(slotCompression) != 0:
		return nil, fmt.Errorf("a compressed batch: %w", errs.ErrArrow)
	case rows < 1 || rows > maxRows:
		return nil, fmt.Errorf("a batch of %d rows, 1 to %d are taken: %w", rows, maxRows, errs.ErrArrow)
	case nodes == 0 || buffers == 0 || h.VectorLen(nodes) != 1 || h.VectorLen(buffers) != 3:
		return nil, fmt.Errorf("a batch of another shape than one binary column: %w", errs.ErrArrow)
	}
	at := h.Vector(nodes)
	if n, nulls := h.GetInt64(at), h.GetInt64(at+8); n != rows || nulls != 0 {
		return nil, fmt.Errorf("a column of %d rows and %d nulls in a batch of %d: %w", n, nulls, rows, errs.ErrArrow)
	}
	at = h.Vector(buffers)
	var parts [3][]byte
	for k := range flatbuffers.UOffsetT(3) {
		from, size := h.GetInt64(at+16*k), h.GetInt64(at+16*k+8)
		if from < 0 || size < 0 || from > int64(len(body)) || size > int64(len(body))-from {
			return nil, fmt.Errorf("a buffer of %d bytes at %d in a body of %d: %w", size, from, len(body), errs.ErrArrow)
		}
		if k == 1 && size < 8*(rows+1) {
			return nil, fmt.Errorf("%d bytes of offsets for %d rows: %w", size, rows, errs.ErrArrow)
		}
		parts[k] = body[from : from+size]
	}
	frames := &column{offsets: parts[1][:8*(rows+1)], data: parts[2]}
	return frames, frames.check()
}
