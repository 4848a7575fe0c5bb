package arrowio

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/flight"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/cryptflow/cryptflow/go/errs"
)

// sender puts Arrow's payloads into messages. Arrow's own flight.Writer
// repeats the descriptor on the first batch, which the server refuses.
type sender struct {
	stream     flight.DataStreamWriter
	descriptor *flight.FlightDescriptor // of the next message only
	metadata   []byte                   // of every message but the schema
	schema     bool                     // was sent
	body       bytes.Buffer
	failed     error
}

func (s *sender) Start() error { return nil }
func (s *sender) Close() error { return nil }

func (s *sender) WritePayload(p ipc.Payload) error {
	header := p.Meta()
	defer header.Release()
	s.body.Reset()
	if err := p.SerializeBody(&s.body); err != nil {
		return err
	}
	d := &flight.FlightData{FlightDescriptor: s.descriptor, DataHeader: header.Bytes(), DataBody: s.body.Bytes()}
	if s.schema {
		d.AppMetadata = s.metadata
	}
	s.schema, s.descriptor = true, nil
	s.failed = s.stream.Send(d)
	return s.failed
}

// batcher gathers frames into batches and sends them. A batch is sent as soon
// as it has its size, so that no more than one is held.
type batcher struct {
	to      *sender
	writer  *ipc.Writer
	builder *array.BinaryBuilder
	size    int // target of a batch in bytes
	held    int
	first   int // index of the first frame held
	next    int
	indexed bool
}

func newBatcher(to *sender, size int) *batcher {
	mem := memory.NewGoAllocator()
	return &batcher{
		to: to, size: size,
		writer:  ipc.NewWriterWithPayloadWriter(to, ipc.WithSchema(frameSchema), ipc.WithAllocator(mem)),
		builder: array.NewBinaryBuilder(mem, arrow.BinaryTypes.LargeBinary),
	}
}

func (b *batcher) add(frame []byte) error {
	if len(frame) == 0 {
		return fmt.Errorf("frame %d is empty: %w", b.next, errs.ErrFrame)
	}
	if b.held > 0 && b.held+len(frame) > b.size {
		if err := b.flush(); err != nil {
			return err
		}
	}
	b.builder.Append(frame)
	b.held += len(frame)
	b.next++
	if b.held >= b.size || b.next-b.first == maxRows {
		return b.flush()
	}
	return nil
}

func (b *batcher) flush() error {
	if b.held == 0 {
		return nil
	}
	column := b.builder.NewArray()
	defer column.Release()
	r := array.NewRecord(frameSchema, []arrow.Array{column}, int64(column.Len()))
	defer r.Release()
	if b.indexed {
		b.to.metadata = binary.LittleEndian.AppendUint64(nil, uint64(b.first))
	}
	b.first, b.held = b.next, 0
	return b.writer.Write(r)
}

// finish sends what is held and, when nothing was, the schema alone.
func (b *batcher) finish() error {
	if err := b.flush(); err != nil {
		return err
	}
	return b.writer.Close()
}
