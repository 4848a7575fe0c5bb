package arrowio

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/endian"
	"github.com/apache/arrow/go/v15/arrow/flight"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	flatbuffers "github.com/google/flatbuffers/go"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"

	"github.com/cryptflow/cryptflow/go/errs"
)

// recorder keeps what would have been sent.
type recorder []*flight.FlightData

// SendMsg reads with protobuf what the codec wrote.
func (r *recorder) SendMsg(m any) error {
	b, err := encoding.GetCodecV2("proto").Marshal(m)
	if err != nil {
		return err
	}
	defer b.Free()
	d := &flight.FlightData{}
	*r = append(*r, d)
	return proto.Unmarshal(b.Materialize(), d)
}

// arrowWriter sends what Arrow's own writer makes.
type arrowWriter struct {
	to         *recorder
	descriptor *flight.FlightDescriptor // of the next message only
}

func (w *arrowWriter) Start() error { return nil }
func (w *arrowWriter) Close() error { return nil }

func (w *arrowWriter) WritePayload(p ipc.Payload) error {
	header := p.Meta()
	defer header.Release()
	var body bytes.Buffer
	if err := p.SerializeBody(&body); err != nil {
		return err
	}
	d := &flight.FlightData{FlightDescriptor: w.descriptor, DataHeader: bytes.Clone(header.Bytes()), DataBody: body.Bytes()}
	if w.descriptor == nil {
		d.AppMetadata = index(0)
	}
	w.descriptor = nil
	*w.to = append(*w.to, d)
	return nil
}

func named(path ...string) *flight.FlightDescriptor {
	return &flight.FlightDescriptor{Type: flight.DescriptorPATH, Path: path}
}

func index(i uint64) []byte { return binary.LittleEndian.AppendUint64(nil, i) }

// stream is a valid upload of the frames to id, in batches of size bytes.
func stream(id string, frames [][]byte, size int) recorder {
	var r recorder
	b := newBatcher(&sender{stream: &r, descriptor: named(id)}, size)
	b.indexed = true
	for _, f := range frames {
		if err := b.add(f); err != nil {
			panic(err)
		}
	}
	if err := b.finish(); err != nil {
		panic(err)
	}
	return r
}

// foreign is what Arrow's own writer makes of a schema and one value a column.
func foreign(s *arrow.Schema, options ...ipc.Option) recorder {
	var r recorder
	columns := make([]arrow.Array, s.NumFields())
	for i := range columns {
		b := array.NewBuilder(memory.DefaultAllocator, s.Field(i).Type)
		if arrow.IsListLike(s.Field(i).Type.ID()) {
			b.AppendEmptyValue()
		} else if err := b.AppendValueFromString("YWJj"); err != nil {
			panic(err)
		}
		columns[i] = b.NewArray()
	}
	to := &arrowWriter{to: &r, descriptor: named("bad")}
	w := ipc.NewWriterWithPayloadWriter(to, append(options, ipc.WithSchema(s))...)
	if err := w.Write(array.NewRecord(s, columns, 1)); err != nil {
		panic(err)
	}
	return r
}

// claims is what the header of a message says, right or wrong.
type claims struct {
	version          int16
	kind             byte
	bodyLength, rows int64
	nodes, buffers   [][2]int64
	compressed       bool
	custom           bool
}

func (c claims) header() []byte {
	b := flatbuffers.NewBuilder(256)
	pairs := func(v [][2]int64) flatbuffers.UOffsetT {
		b.StartVector(16, len(v), 8)
		for _, p := range slices.Backward(v) {
			b.Prep(8, 16)
			b.PrependInt64(p[1])
			b.PrependInt64(p[0])
		}
		return b.EndVector(len(v))
	}
	nodes, buffers := pairs(c.nodes), pairs(c.buffers)
	var compression, custom flatbuffers.UOffsetT
	if c.compressed {
		b.StartObject(2)
		compression = b.EndObject()
	}
	if c.custom {
		b.StartVector(4, 0, 4)
		custom = b.EndVector(0)
	}
	b.StartObject(5)
	b.PrependInt64Slot(0, c.rows, 0)
	b.PrependUOffsetTSlot(1, nodes, 0)
	b.PrependUOffsetTSlot(2, buffers, 0)
	b.PrependUOffsetTSlot(3, compression, 0)
	batch := b.EndObject()
	b.StartObject(5)
	b.PrependInt16Slot(0, c.version, 0)
	b.PrependByteSlot(1, c.kind, 0)
	b.PrependUOffsetTSlot(2, batch, 0)
	b.PrependInt64Slot(3, c.bodyLength, 0)
	b.PrependUOffsetTSlot(4, custom, 0)
	b.Finish(b.EndObject())
	return b.FinishedBytes()
}

// body holds the given offsets, padded to 64 bytes, and then data.
func body(data string, offsets ...int64) []byte {
	var b []byte
	for _, o := range offsets {
		b = binary.LittleEndian.AppendUint64(b, uint64(o))
	}
	return append(append(b, make([]byte, max(0, 64-len(b)))...), data...)
}

type hostile struct {
	name     string
	messages []*flight.FlightData
	want     error
	putOnly  bool // of no concern to a download
}

// batchCases are a good schema and then one batch that is wrong in one way.
func batchCases() []hostile {
	schema := stream("bad", nil, 1)[0]
	good := claims{version: metadataV5, kind: headerBatch, rows: 2, nodes: [][2]int64{{2, 0}}, buffers: [][2]int64{{0, 0}, {0, 24}, {64, 6}}, bodyLength: 70}
	bytes := body("abcdef", 0, 3, 6)
	var out []hostile
	add := func(name string, body []byte, change func(c *claims)) {
		c := good
		c.nodes, c.buffers, c.bodyLength = slices.Clone(c.nodes), slices.Clone(c.buffers), int64(len(body))
		change(&c)
		out = append(out, hostile{name: name, want: errs.ErrArrow, messages: []*flight.FlightData{schema, {DataHeader: c.header(), DataBody: body, AppMetadata: index(0)}}})
	}
	keep := func(*claims) {}
	add("control", bytes, keep)
	out[0].want = nil
	for name, change := range map[string]func(c *claims){
		"version 4":                     func(c *claims) { c.version-- },
		"kind none":                     func(c *claims) { c.kind = 0 },
		"a second schema's kind":        func(c *claims) { c.kind = headerSchema },
		"a dictionary batch":            func(c *claims) { c.kind = 2 },
		"a tensor":                      func(c *claims) { c.kind = 4 },
		"a sparse tensor":               func(c *claims) { c.kind = 5 },
		"unknown kind":                  func(c *claims) { c.kind = 200 },
		"compression":                   func(c *claims) { c.compressed = true },
		"message metadata":              func(c *claims) { c.custom = true },
		"body shorter than claimed":     func(c *claims) { c.bodyLength++ },
		"body longer than claimed":      func(c *claims) { c.bodyLength-- },
		"body of 200 GiB":               func(c *claims) { c.bodyLength = 200 << 30 },
		"body of negative length":       func(c *claims) { c.bodyLength = -70 },
		"buffer of 200 GiB":             func(c *claims) { c.buffers[2][1] = 200 << 30 },
		"buffer and body of 200 GiB":    func(c *claims) { c.buffers[2][1], c.bodyLength = 200<<30, 200<<30 },
		"offsets of 200 GiB":            func(c *claims) { c.buffers[1][1] = 200 << 30 },
		"validity of 200 GiB":           func(c *claims) { c.buffers[0][1] = 200 << 30 },
		"buffer past the body":          func(c *claims) { c.buffers[2][0]++ },
		"buffer before the body":        func(c *claims) { c.buffers[2][0] = -1 },
		"buffer of negative length":     func(c *claims) { c.buffers[2][1] = -1 },
		"buffer whose end overflows":    func(c *claims) { c.buffers[2] = [2]int64{8, math.MaxInt64} },
		"buffer whose start overflows":  func(c *claims) { c.buffers[2] = [2]int64{math.MaxInt64, 8} },
		"no data":                       func(c *claims) { c.buffers[2][1] = 0 },
		"too few offsets":               func(c *claims) { c.buffers[1][1] = 16 },
		"no offsets":                    func(c *claims) { c.buffers[1][1] = 0 },
		"two buffers":                   func(c *claims) { c.buffers = c.buffers[:2] },
		"four buffers":                  func(c *claims) { c.buffers = append(c.buffers, [2]int64{}) },
		"no buffers":                    func(c *claims) { c.buffers = nil },
		"no column":                     func(c *claims) { c.nodes = nil },
		"two columns":                   func(c *claims) { c.nodes = append(c.nodes, c.nodes[0]) },
		"nulls":                         func(c *claims) { c.nodes[0][1] = 1 },
		"nulls to be counted":           func(c *claims) { c.nodes[0][1] = -1 },
		"column shorter than its batch": func(c *claims) { c.nodes[0][0] = 1 },
		"column longer than its batch":  func(c *claims) { c.nodes[0][0] = 3 },
		"no rows":                       func(c *claims) { c.rows, c.nodes[0][0] = 0, 0 },
		"negative rows":                 func(c *claims) { c.rows, c.nodes[0][0] = -1, -1 },
		"more rows than offsets":        func(c *claims) { c.rows, c.nodes[0][0] = 3, 3 },
		"rows that overflow":            func(c *claims) { c.rows, c.nodes[0][0] = 1<<61, 1<<61 },
	} {
		add(name, bytes, change)
	}
	var offsets []int64
	for i := range int64(maxRows + 2) {
		offsets = append(offsets, i)
	}
	add("rows over the limit", body(string(make([]byte, maxRows+1)), offsets...), func(c *claims) {
		size := 8 * int64(len(offsets))
		c.rows, c.nodes[0][0] = maxRows+1, maxRows+1
		c.buffers[1], c.buffers[2] = [2]int64{0, size}, [2]int64{size, maxRows + 1}
	})
	for name, offsets := range map[string][]int64{
		"offsets that descend":        {0, 6, 3},
		"offsets past the data":       {0, 3, 7},
		"an offset in between past":   {0, 7, 6},
		"offsets of 200 GiB inside":   {0, 200 << 30, 200 << 30},
		"negative offsets":            {-3, 0, 3},
		"a negative last offset":      {0, 3, -1},
		"an empty frame":              {0, 3, 3},
		"an empty first frame":        {0, 0, 3},
		"offsets that overflow":       {0, math.MaxInt64, math.MinInt64},
		"offsets that all are beyond": {7, 8, 9},
	} {
		add(name, body("abcdef", offsets...), keep)
	}
	return out
}

func schemaCases() []hostile {
	var out []hostile
	add := func(name string, messages recorder) {
		out = append(out, hostile{name: "schema: " + name, messages: messages, want: errs.ErrArrow})
	}
	field := func(t arrow.DataType) arrow.Field { return arrow.Field{Name: "frame", Type: t} }
	one := func(f ...arrow.Field) recorder { return foreign(arrow.NewSchema(f, nil)) }
	binary := arrow.BinaryTypes.LargeBinary
	add("utf8", one(field(arrow.BinaryTypes.String)))
	add("large utf8", one(field(arrow.BinaryTypes.LargeString)))
	add("binary", one(field(arrow.BinaryTypes.Binary)))
	add("list", one(field(arrow.LargeListOf(arrow.PrimitiveTypes.Uint8))))
	add("dictionary", one(field(&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String})))
	add("nullable", one(arrow.Field{Name: "frame", Type: binary, Nullable: true}))
	add("another name", one(arrow.Field{Name: "frames", Type: binary}))
	add("no name", one(arrow.Field{Type: binary}))
	add("two columns", one(field(binary), field(binary)))
	add("no column", one())
	add("field metadata", one(arrow.Field{Name: "frame", Type: binary, Metadata: arrow.NewMetadata([]string{"a"}, []string{"b"})}))
	m := arrow.NewMetadata([]string{"a"}, []string{"b"})
	add("metadata", foreign(arrow.NewSchema([]arrow.Field{field(binary)}, &m)))
	add("big-endian", foreign(arrow.NewSchemaWithEndian([]arrow.Field{field(binary)}, nil, endian.BigEndian))[:1])
	add("LZ4", foreign(frameSchema, ipc.WithLZ4()))
	add("Zstandard", foreign(frameSchema, ipc.WithZstd()))
	return out
}

func streamCases() []hostile {
	ok := func() recorder { return stream("bad", [][]byte{[]byte("abc"), []byte("def")}, 3) }
	change := func(f func(r recorder) recorder) recorder { return f(ok()) }
	meta := func(b []byte) recorder {
		return change(func(r recorder) recorder { r[1].AppMetadata = b; return r })
	}
	describe := func(d *flight.FlightDescriptor) recorder {
		return change(func(r recorder) recorder { r[0].FlightDescriptor = d; return r })
	}
	garbage := make([]byte, 300)
	for i := range garbage {
		garbage[i] = byte(37*i*i + 11*i)
	}
	out := []hostile{
		{name: "a batch before the schema", messages: ok()[1:], want: errs.ErrArrow},
		{name: "a second schema", messages: change(func(r recorder) recorder { return recorder{r[0], {DataHeader: r[0].DataHeader}} }), want: errs.ErrArrow},
		{name: "a descriptor alone", messages: recorder{{FlightDescriptor: named("bad")}}, want: errs.ErrArrow},
		{name: "metadata alone", messages: change(func(r recorder) recorder { return recorder{r[0], {AppMetadata: index(0)}} }), want: errs.ErrArrow},
		{name: "an empty message", messages: recorder{{}}, want: errs.ErrArrow},
		{name: "garbage", messages: recorder{{FlightDescriptor: named("bad"), DataHeader: garbage, DataBody: garbage}}, want: errs.ErrArrow},
		{name: "garbage after the schema", messages: change(func(r recorder) recorder { return recorder{r[0], {DataHeader: garbage, DataBody: garbage}} }), want: errs.ErrArrow},
		{name: "a schema with a body", messages: change(func(r recorder) recorder { r[0].DataBody = garbage; return r }), want: errs.ErrArrow},
		{name: "a batch without its body", messages: change(func(r recorder) recorder { r[1].DataBody = nil; return r }), want: errs.ErrArrow},
		{name: "a second descriptor", messages: change(func(r recorder) recorder { r[1].FlightDescriptor = named("bad"); return r }), want: errs.ErrArrow},
		{name: "nothing", want: errs.ErrArrow},

		{putOnly: true, name: "no index", messages: meta(nil), want: errs.ErrArrow},
		{putOnly: true, name: "a short index", messages: meta(index(0)[:7]), want: errs.ErrArrow},
		{putOnly: true, name: "a long index", messages: meta(append(index(0), 0)), want: errs.ErrArrow},
		{putOnly: true, name: "a negative index", messages: meta(index(math.MaxUint64)), want: errs.ErrChunkOrder},
		{putOnly: true, name: "an index that overflows", messages: meta(index(math.MaxInt64)), want: errs.ErrChunkOrder},
		{putOnly: true, name: "an index over 32 bits", messages: meta(index(1 << 32)), want: errs.ErrChunkOrder},
		{putOnly: true, name: "an index that skips", messages: meta(index(1)), want: errs.ErrChunkOrder},
		{putOnly: true, name: "no descriptor", messages: describe(nil), want: errs.ErrArrow},
		{putOnly: true, name: "a command", messages: describe(&flight.FlightDescriptor{Type: flight.DescriptorCMD, Cmd: []byte("bad")}), want: errs.ErrArrow},
		{putOnly: true, name: "no path", messages: describe(named()), want: errs.ErrArrow},
		{putOnly: true, name: "an empty path", messages: describe(named("")), want: errs.ErrArrow},
		{putOnly: true, name: "a path of two", messages: describe(named("bad", "bad")), want: errs.ErrArrow},
		{putOnly: true, name: "a long path", messages: describe(named(string(make([]byte, maxName+1)))), want: errs.ErrArrow},
		{putOnly: true, name: "an unknown upload", messages: describe(named("nobody")), want: errs.ErrUpload},
		{putOnly: true, name: "a message over the limit", messages: stream("bad", [][]byte{make([]byte, 3<<20)}, 1), want: errs.ErrLimit},
	}
	for k, name := range []string{"schema", "batch"} {
		whole := ok()[k].DataHeader
		if k == 0 { // ends in the name's padding, which nothing reads
			whole = bytes.TrimRight(whole, "\x00")
		}
		for n := range whole {
			cut := change(func(r recorder) recorder { r[k].DataHeader = whole[:n]; return r })
			out = append(out, hostile{name: fmt.Sprintf("%s cut to %d bytes", name, n), messages: cut, want: errs.ErrArrow})
		}
	}
	return out
}

func hostileCases() []hostile { return slices.Concat(batchCases(), schemaCases(), streamCases()) }
