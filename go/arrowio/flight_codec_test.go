package arrowio

import (
	"bytes"
	"slices"
	"testing"

	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/flight"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// TestArrowReadsWhatIsSent: batches are written by hand and are Arrow's.
func TestArrowReadsWhatIsSent(t *testing.T) {
	for _, size := range []int{1, 700, 1 << 20} {
		want := makeFrames(3, 60, 900)
		in, err := flight.NewRecordReader(&replay{stream("u", want, size)})
		if err != nil {
			t.Fatal(err)
		}
		var got [][]byte
		for in.Next() {
			column := in.Record().Column(0).(*array.LargeBinary)
			for i := range column.Len() {
				got = append(got, bytes.Clone(column.Value(i)))
			}
		}
		if err := in.Err(); err != nil {
			t.Fatal(err)
		}
		equalFrames(t, got, want)
		in.Release()
	}
}

// TestWhatArrowSendsIsRead: another implementation's batches are taken.
func TestWhatArrowSendsIsRead(t *testing.T) {
	in, err := newBatches(&replay{foreign(frameSchema)}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	frames, _, err := in.next()
	if err != nil || frames.Len() != 1 || string(frames.Value(0)) != "YWJj" && string(frames.Value(0)) != "abc" {
		t.Fatal(frames, err)
	}
	if frames, _, err = in.next(); frames != nil || err != nil {
		t.Fatal(frames, err)
	}
}

// TestTheCodecReadsAsProtobufDoes: unknown fields, wrong types, repeated and
// cut messages, in any pieces.
func TestTheCodecReadsAsProtobufDoes(t *testing.T) {
	whole, err := proto.Marshal(&flight.FlightData{FlightDescriptor: named("a"), DataHeader: []byte("header"), AppMetadata: []byte("metadata"), DataBody: bytes.Repeat([]byte("body"), 5000)})
	if err != nil {
		t.Fatal(err)
	}
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 77, protowire.VarintType), 5)
	wrong := protowire.AppendFixed32(protowire.AppendTag(nil, fieldHeader, protowire.Fixed32Type), 5)
	again := protowire.AppendBytes(protowire.AppendTag(nil, fieldHeader, protowire.BytesType), []byte("second"))
	more, err := proto.Marshal(&flight.FlightData{FlightDescriptor: &flight.FlightDescriptor{Path: []string{"b"}}})
	if err != nil {
		t.Fatal(err)
	}
	notText := protowire.AppendBytes(protowire.AppendTag(nil, fieldDescriptor, protowire.BytesType), []byte{0x1a, 1, 0xff})
	cases := map[string][]byte{
		"whole": whole, "nothing": nil, "unknown": slices.Concat(unknown, whole, unknown), "wrong type": slices.Concat(whole, wrong),
		"repeated": slices.Concat(whole, again), "merged": slices.Concat(whole, more), "not text": slices.Concat(whole, notText),
		"field zero": slices.Concat(whole, []byte{2, 0}), "cut": whole[:len(whole)-1], "cut in the header": whole[:9],
		"a group": slices.Concat(whole, []byte{0x0b, 0x0c}), "an open group": slices.Concat(whole, []byte{0x0b}),
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			var want flight.FlightData
			refused := proto.Unmarshal(b, &want)
			for _, piece := range []int{1, 7, 16 << 10, 1 << 20} {
				var in mem.BufferSlice
				for part := range slices.Chunk(b, piece) {
					in = append(in, mem.SliceBuffer(part))
				}
				var got incoming
				err := encoding.GetCodecV2("proto").Unmarshal(in, &got)
				if (err == nil) != (refused == nil) {
					t.Fatalf("protobuf says %v, the codec %v", refused, err)
				}
				if err == nil && (!proto.Equal(got.FlightDescriptor, want.FlightDescriptor) || !bytes.Equal(got.DataHeader, want.DataHeader) ||
					!bytes.Equal(got.AppMetadata, want.AppMetadata) || !bytes.Equal(got.DataBody, want.DataBody)) {
					t.Fatal("another message")
				}
				got.free()
			}
		})
	}
}
