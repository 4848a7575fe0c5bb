package arrowio

import (
	"fmt"

	"github.com/apache/arrow/go/v15/arrow/flight"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	pb "google.golang.org/protobuf/proto"

	"github.com/cryptflow/cryptflow/go/buffers"
	"github.com/cryptflow/cryptflow/go/errs"
)

// Fields of FlightData, from Arrow's Flight.proto.
const (
	fieldDescriptor = 1
	fieldHeader     = 2
	fieldMetadata   = 3
	fieldBody       = 1000
)

// outgoing is a FlightData whose body is not copied into its message.
type outgoing struct {
	descriptor       *flight.FlightDescriptor
	header, metadata []byte
	offsets          []byte  // the body's beginning
	data             *[]byte // and its end, of [buffers.Pool]; nil once gRPC has it
}

// incoming is a FlightData whose parts lie in one recycled buffer. They are
// valid until free.
type incoming struct {
	flight.FlightData
	held mem.Buffer
}

func (m *incoming) free() {
	if m.held != nil {
		m.held.Free()
		m.held = nil
	}
}

// pooled is the largest message for which gRPC's pool has a buffer of about its
// size.
const pooled = 32 << 10

// codec is protobuf's, which copies every body twice, for all messages but
// the two kinds above. It takes its place for the whole process: gRPC chooses
// codecs by name, and the name is part of the protocol.
type codec struct{ encoding.CodecV2 }

func init() {
	encoding.RegisterCodecV2(codec{encoding.GetCodecV2(proto.Name)})
}

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*outgoing); ok {
		return m.marshal()
	}
	// gRPC's pool has one size between 32 KiB and a mebibyte: the largest. A
	// peer that reads nothing of its answers would hold that much for each.
	if m, ok := v.(pb.Message); ok && pb.Size(m) > pooled {
		b, err := pb.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("a message: %w", errs.ErrInternal)
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(b mem.BufferSlice, v any) error {
	if m, ok := v.(*incoming); ok {
		return m.unmarshal(b)
	}
	return c.CodecV2.Unmarshal(b, v)
}

func (m *outgoing) marshal() (mem.BufferSlice, error) {
	var descriptor []byte
	if m.descriptor != nil {
		var err error
		if descriptor, err = pb.Marshal(m.descriptor); err != nil {
			return nil, fmt.Errorf("a descriptor: %w", errs.ErrInternal)
		}
	}
	b := make([]byte, 0, len(descriptor)+len(m.header)+len(m.metadata)+len(m.offsets)+32)
	for _, f := range []struct {
		number protowire.Number
		value  []byte
	}{{fieldDescriptor, descriptor}, {fieldHeader, m.header}, {fieldMetadata, m.metadata}} {
		if len(f.value) > 0 {
			b = protowire.AppendBytes(protowire.AppendTag(b, f.number, protowire.BytesType), f.value)
		}
	}
	if m.data == nil {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	b = protowire.AppendTag(b, fieldBody, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(m.offsets)+len(*m.data)))
	b = append(b, m.offsets...)
	data := mem.NewBuffer(m.data, buffers.Pool)
	m.data = nil
	return mem.BufferSlice{mem.SliceBuffer(b), data}, nil
}

// unmarshal takes the message as protobuf does: unknown fields are skipped, of
// repeated ones the last counts.
func (m *incoming) unmarshal(in mem.BufferSlice) (err error) {
	m.free()
	held := in.MaterializeToBuffer(buffers.Pool)
	defer func() {
		if err != nil {
			held.Free()
		}
	}()
	var descriptor *flight.FlightDescriptor
	var header, metadata, body []byte
	for b := held.ReadOnlyData(); len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return protowire.ParseError(n)
		}
		field := b[:n]
		b = b[n:]
		if kind != protowire.BytesType {
			continue
		}
		value, _ := protowire.ConsumeBytes(field)
		switch number {
		case fieldDescriptor:
			if descriptor == nil {
				descriptor = &flight.FlightDescriptor{}
			}
			if err := (pb.UnmarshalOptions{Merge: true}).Unmarshal(value, descriptor); err != nil {
				return err
			}
		case fieldHeader:
			header = value
		case fieldMetadata:
			metadata = value
		case fieldBody:
			body = value
		}
	}
	m.FlightDescriptor, m.DataHeader, m.AppMetadata, m.DataBody = descriptor, header, metadata, body
	m.held = held
	return nil
}

// received is a stream as a source of messages, one valid at a time.
type received struct {
	stream interface{ RecvMsg(m any) error }
	last   incoming
}

func (r *received) Recv() (*flight.FlightData, error) {
	r.last.free()
	if err := r.stream.RecvMsg(&r.last); err != nil {
		return nil, err
	}
	return &r.last.FlightData, nil
}

func (r *received) close() { r.last.free() }
