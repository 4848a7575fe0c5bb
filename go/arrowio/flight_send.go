package arrowio

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/apache/arrow/go/v15/arrow/flight"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/cryptflow/cryptflow/go/buffers"
	"github.com/cryptflow/cryptflow/go/errs"
)

// sender sends messages and keeps the error that ended it.
type sender struct {
	stream     interface{ SendMsg(m any) error }
	descriptor *flight.FlightDescriptor // of the first message only
	failed     error
}

func (s *sender) send(m *outgoing) error {
	m.descriptor, s.descriptor = s.descriptor, nil
	s.failed = s.stream.SendMsg(m)
	if m.data != nil { // gRPC never came to take it
		buffers.Pool.Put(m.data)
	}
	return s.failed
}

// schemaHeader is how Arrow describes the one schema.
var schemaHeader = sync.OnceValues(func() ([]byte, error) {
	var p kept
	if err := ipc.NewWriterWithPayloadWriter(&p, ipc.WithSchema(frameSchema)).Close(); err != nil || len(p) == 0 {
		return nil, fmt.Errorf("describing the schema: %w: %w", err, errs.ErrInternal)
	}
	return p, nil
})

// kept is the description in a payload.
type kept []byte

func (k *kept) Start() error { return nil }
func (k *kept) Close() error { return nil }
func (k *kept) WritePayload(p ipc.Payload) error {
	header := p.Meta()
	defer header.Release()
	*k = append((*k)[:0], header.Bytes()...)
	return nil
}

// batcher gathers frames into batches and sends them. A batch is sent as soon
// as it has its size, so that no more than one is held. Its frames are copied
// once, to where the connection takes them from.
type batcher struct {
	to      *sender
	size    int // target of a batch in bytes
	first   int // index of the first frame held
	next    int
	indexed bool
	schema  bool    // was sent
	offsets []byte  // of the batch: where frames end
	data    *[]byte // the frames held; nil when there are none
	builder *flatbuffers.Builder
}

func newBatcher(to *sender, size int) *batcher {
	return &batcher{to: to, size: size, builder: flatbuffers.NewBuilder(256)}
}

func (b *batcher) add(frame []byte) error {
	if len(frame) == 0 {
		return fmt.Errorf("frame %d is empty: %w", b.next, errs.ErrFrame)
	}
	if b.data != nil && len(*b.data)+len(frame) > b.size {
		if err := b.flush(); err != nil {
			return err
		}
	}
	if b.data == nil {
		b.data = buffers.Pool.Get(max(b.size, len(frame)) + align)
		*b.data = (*b.data)[:0]
		b.offsets = binary.LittleEndian.AppendUint64(b.offsets[:0], 0)
	}
	*b.data = append(*b.data, frame...)
	b.offsets = binary.LittleEndian.AppendUint64(b.offsets, uint64(len(*b.data)))
	b.next++
	if len(*b.data) >= b.size || b.next-b.first == maxRows {
		return b.flush()
	}
	return nil
}

func (b *batcher) flush() error {
	if b.data == nil {
		return nil
	}
	if err := b.begin(); err != nil {
		return err
	}
	m := &outgoing{offsets: b.offsets, data: b.data, header: b.header(b.next-b.first, len(b.offsets), len(*b.data))}
	for len(*m.data)%align != 0 {
		*m.data = append(*m.data, 0)
	}
	if b.indexed {
		m.metadata = binary.LittleEndian.AppendUint64(nil, uint64(b.first))
	}
	b.first, b.data = b.next, nil
	return b.to.send(m)
}

// begin sends the schema, once.
func (b *batcher) begin() error {
	if b.schema {
		return nil
	}
	header, err := schemaHeader()
	if err != nil {
		return err
	}
	b.schema = true
	return b.to.send(&outgoing{header: header})
}

// finish sends what is held and, when nothing was, the schema alone.
func (b *batcher) finish() error {
	if err := b.flush(); err != nil {
		return err
	}
	return b.begin()
}

// drop gives up what is held.
func (b *batcher) drop() {
	if b.data != nil {
		buffers.Pool.Put(b.data)
		b.data = nil
	}
}

// align is what Arrow pads buffers to.
const align = 8

// header describes a batch of rows frames, whose body is offsets bytes of
// offsets and then data bytes of frames, padded: a Message with a RecordBatch,
// as in Arrow's Message.fbs.
func (b *batcher) header(rows, offsets, data int) []byte {
	f := b.builder
	f.Reset()
	pairs := func(v ...[2]int64) flatbuffers.UOffsetT {
		f.StartVector(16, len(v), align)
		for i := len(v) - 1; i >= 0; i-- {
			f.Prep(align, 16)
			f.PrependInt64(v[i][1])
			f.PrependInt64(v[i][0])
		}
		return f.EndVector(len(v))
	}
	buffers := pairs([2]int64{}, [2]int64{0, int64(offsets)}, [2]int64{int64(offsets), int64(data)})
	nodes := pairs([2]int64{int64(rows), 0})
	f.StartObject(slots)
	f.PrependInt64Slot(slot(slotRows), int64(rows), 0)
	f.PrependUOffsetTSlot(slot(slotNodes), nodes, 0)
	f.PrependUOffsetTSlot(slot(slotBuffers), buffers, 0)
	batch := f.EndObject()
	padded := (data + align - 1) / align * align
	f.StartObject(slots)
	f.PrependInt16Slot(slot(slotVersion), metadataV5, 0)
	f.PrependByteSlot(slot(slotHeaderType), headerBatch, 0)
	f.PrependUOffsetTSlot(slot(slotHeader), batch, 0)
	f.PrependInt64Slot(slot(slotBodyLength), int64(offsets+padded), 0)
	f.Finish(f.EndObject())
	return f.FinishedBytes()
}

// slots is how many fields the tables written here have.
const slots = 5

// slot is the number of a field that is read at an offset into a vtable.
func slot(at int) int { return (at - 4) / 2 }
