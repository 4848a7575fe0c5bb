package arrowio

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/endian"
	"github.com/apache/arrow/go/v15/arrow/flight"
	wire "github.com/apache/arrow/go/v15/arrow/flight/gen/flight"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	flatbuffers "github.com/google/flatbuffers/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cryptflow/cryptflow/go/errs"
)

// recorder keeps what would have been sent.
type recorder []*flight.FlightData

func (r *recorder) Send(d *flight.FlightData) error {
	*r = append(*r, &flight.FlightData{
		FlightDescriptor: d.FlightDescriptor, DataHeader: bytes.Clone(d.DataHeader),
		DataBody: bytes.Clone(d.DataBody), AppMetadata: bytes.Clone(d.AppMetadata),
	})
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
	to := &sender{stream: &r, descriptor: named("bad"), metadata: index(0)}
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
	return append(append(b, make([]byte, 64-len(b))...), data...)
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
		"rows over the limit":           func(c *claims) { c.rows, c.nodes[0][0] = maxRows+1, maxRows+1 },
	} {
		add(name, bytes, change)
	}
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
	add("big-endian", foreign(arrow.NewSchemaWithEndian([]arrow.Field{field(binary)}, nil, endian.BigEndian)))
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
	for k, r := range ok()[:2] {
		for n := range r.DataHeader {
			cut := change(func(r recorder) recorder { r[k].DataHeader = r[k].DataHeader[:n]; return r })
			name := []string{"schema", "batch"}[k]
			out = append(out, hostile{name: fmt.Sprintf("%s cut to %d bytes", name, n), messages: cut, want: errs.ErrArrow})
		}
	}
	return out
}

// send puts raw messages and returns what the server made of them.
func send(ctx context.Context, conn grpc.ClientConnInterface, messages []*flight.FlightData) error {
	s, err := flight.NewFlightServiceClient(conn).DoPut(ctx)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := s.Send(m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	_ = s.CloseSend()
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// stillServes makes a whole upload.
func stillServes(t *testing.T, conn grpc.ClientConnInterface, all *sinks) {
	t.Helper()
	u := all.add("good", nil)
	want := makeFrames(5, 5, 100)
	if err := PutFrames(t.Context(), conn, "good", 0, feed(want, 0), 200, ignore); err != nil {
		t.Fatal(err)
	}
	equalFrames(t, u.got(), want)
}

func hostileCases() []hostile { return slices.Concat(batchCases(), schemaCases(), streamCases()) }

func TestServerRefusesHostileUploads(t *testing.T) {
	l := limits
	l.MessageBytes = 2 << 20
	all := &sinks{}
	conn := serveSinks(t, all, l, watch{})
	for _, c := range hostileCases() {
		t.Run(c.name, func(t *testing.T) {
			u := all.add("bad", nil)
			err := send(t.Context(), conn, c.messages)
			if c.want == nil {
				if err != nil || u.Next() != 2 {
					t.Fatalf("%d frames, %v", u.Next(), err)
				}
				return
			}
			wantError(t, err, c.want)
			if u.Next() != 0 {
				t.Fatalf("%d frames were delivered", u.Next())
			}
			stillServes(t, conn, all)
		})
	}
}

// liar answers every download with the same messages, and every upload so.
type liar struct {
	wire.UnimplementedFlightServiceServer
	messages []*flight.FlightData
	put      func(flight.FlightService_DoPutServer) error
}

func (l *liar) DoGet(_ *flight.Ticket, s flight.FlightService_DoGetServer) error {
	for _, m := range l.messages {
		if err := s.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (l *liar) DoPut(s flight.FlightService_DoPutServer) error { return l.put(s) }

func (l *liar) serve(t *testing.T) *grpc.ClientConn {
	return serve(t, func(s *grpc.Server) { flight.RegisterFlightServiceServer(s, l) }, watch{})
}

func TestClientRefusesHostileDownloads(t *testing.T) {
	l := &liar{}
	conn := l.serve(t)
	for _, c := range hostileCases() {
		if c.putOnly {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			l.messages = c.messages
			n := 0
			err := GetFrames(t.Context(), conn, nil, 100, func([]byte) error { n++; return nil })
			if c.want == nil {
				if err != nil || n != 2 {
					t.Fatalf("%d frames, %v", n, err)
				}
				return
			}
			wantError(t, err, c.want)
			if n != 0 {
				t.Fatalf("%d frames were delivered", n)
			}
		})
	}
}

// TestClaimsCostNothing holds the memory that a refused message costs to a
// bound far below its claim: all of it, released or not.
func TestClaimsCostNothing(t *testing.T) {
	all := &sinks{}
	conn := serveSinks(t, all, limits, watch{})
	stillServes(t, conn, all)
	for _, c := range batchCases() {
		t.Run(c.name, func(t *testing.T) {
			all.add("bad", nil)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_ = send(t.Context(), conn, c.messages)
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
				t.Fatalf("a message of some hundred bytes took %d bytes", took)
			}
		})
	}
}

// replay is a source of recorded messages.
type replay struct{ left recorder }

func (r *replay) Recv() (*flight.FlightData, error) {
	if len(r.left) == 0 {
		return nil, io.EOF
	}
	d := r.left[0]
	r.left = r.left[1:]
	return d, nil
}

func TestAllocatorStopsWhatTheChecksMissed(t *testing.T) {
	r := stream("u", [][]byte{make([]byte, 4096)}, 1)
	in, err := newBatchesWithin(&replay{r}, 1<<20, 4096)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = in.next()
	wantError(t, err, errs.ErrLimit)
}

func TestDecodingReturnsWhatItTook(t *testing.T) {
	in, err := newBatches(&replay{stream("u", makeFrames(6, 500, 9000), 700)}, 10<<10)
	if err != nil {
		t.Fatal(err)
	}
	full := in.memory.left
	for {
		f, _, err := in.next()
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			break
		}
	}
	in.reader.Release()
	if in.memory.left != full {
		t.Fatalf("%d of %d bytes came back", in.memory.left, full)
	}
}

// TestMutatedStreamsEndInAnErrorOrInFrames: a changed message is refused by a
// code, or delivers pieces of what was sent; nothing else ever arrives.
func TestMutatedStreamsEndInAnErrorOrInFrames(t *testing.T) {
	all := &sinks{}
	conn := serveSinks(t, all, limits, watch{})
	refused := 0
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 7))
		messages := stream("bad", makeFrames(seed, 12, 300), 600)
		m := messages[r.IntN(len(messages))]
		part := []*[]byte{&m.DataHeader, &m.DataHeader, &m.DataHeader, &m.DataBody, &m.AppMetadata}[r.IntN(5)]
		mutate(r, part)
		u := all.add("bad", nil)
		if err := send(t.Context(), conn, messages); err != nil {
			refused++
			code := errs.Parse(status.Convert(err).Message())
			if code == nil || errors.Is(code, errs.ErrInternal) {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		for i, f := range u.got() {
			if len(f) == 0 || !slices.ContainsFunc(messages, func(m *flight.FlightData) bool { return bytes.Contains(m.DataBody, f) }) {
				t.Fatalf("seed %d: frame %d was never sent", seed, i)
			}
		}
	}
	if refused == 0 {
		t.Fatal("no mutation was refused")
	}
	stillServes(t, conn, all)
}

func mutate(r *rand.Rand, part *[]byte) {
	b := *part
	if len(b) == 0 {
		*part = []byte{byte(r.Uint32())}
		return
	}
	for range 1 + r.IntN(4) {
		switch at := r.IntN(len(b)); r.IntN(5) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.Uint32())
		case 2:
			b[at] = []byte{0, 1, 0x7f, 0x80, 0xff}[r.IntN(5)]
		case 3:
			copy(b[at:], b[r.IntN(len(b)):])
		case 4:
			if r.IntN(4) == 0 && at > 0 {
				b = b[:at]
			}
		}
	}
	*part = b
}

func TestPanicEndsOneStream(t *testing.T) {
	all := &sinks{}
	all.add("u", func(int) error { panic("a fault") })
	l := limits
	l.Streams = 1
	conn := serveSinks(t, all, l, watch{})
	for range 2 {
		wantError(t, PutFrames(t.Context(), conn, "u", 0, feed(makeFrames(1, 9, 9), 0), 1, ignore), errs.ErrInternal)
	}
	stillServes(t, conn, all)
}

func TestClientDistrustsTheServersAnswers(t *testing.T) {
	answer := func(b []byte) func(flight.FlightService_DoPutServer) error {
		return func(s flight.FlightService_DoPutServer) error {
			if err := s.Send(&flight.PutResult{AppMetadata: b}); err != nil {
				return err
			}
			<-s.Context().Done()
			return s.Context().Err()
		}
	}
	endless := func(emit func(int, []byte) error) error {
		for i := 0; ; i++ {
			if err := emit(i, make([]byte, 1000)); err != nil {
				return err
			}
		}
	}
	for name, c := range map[string]struct {
		put   func(flight.FlightService_DoPutServer) error
		acked func(int)
		want  error
	}{
		"a short answer":        {answer([]byte{1}), ignore, errs.ErrArrow},
		"a huge watermark":      {answer(index(math.MaxUint64)), ignore, errs.ErrArrow},
		"an early end":          {func(flight.FlightService_DoPutServer) error { return nil }, ignore, errs.ErrUnavailable},
		"a panic in the caller": {answer(index(1)), func(int) { panic("a fault") }, errs.ErrInternal},
	} {
		t.Run(name, func(t *testing.T) {
			conn := (&liar{put: c.put}).serve(t)
			wantError(t, PutFrames(t.Context(), conn, "u", 0, endless, 1, c.acked), c.want)
		})
	}
}

func TestCallersErrorsComeBackUnchanged(t *testing.T) {
	all := &sinks{}
	u := all.add("u", nil)
	conn := serveSinks(t, all, limits, watch{})
	frames := makeFrames(8, 20, 100)
	put := func(f func(func(int, []byte) error) error) error {
		return PutFrames(t.Context(), conn, "u", 0, f, 1, ignore)
	}
	own := errors.New("own")
	if err := put(func(emit func(int, []byte) error) error { return errors.Join(emit(0, frames[0]), own) }); !errors.Is(err, own) {
		t.Fatalf("got %v", err)
	}
	wantError(t, put(func(emit func(int, []byte) error) error { return emit(1, frames[1]) }), errs.ErrChunkOrder)
	wantError(t, put(func(emit func(int, []byte) error) error { return emit(0, nil) }), errs.ErrFrame)
	wantError(t, PutFrames(t.Context(), conn, "u", -1, feed(frames, 0), 1, ignore), errs.ErrChunkOrder)
	if err := PutFrames(t.Context(), conn, "u", 0, feed(frames, 0), 1, ignore); err != nil {
		t.Fatal(err)
	}
	equalFrames(t, u.got(), frames)
	if err := GetFrames(t.Context(), conn, []byte("u"), 400, func([]byte) error { return own }); !errors.Is(err, own) {
		t.Fatalf("got %v", err)
	}
	wantError(t, GetFrames(t.Context(), conn, []byte("u"), len(frames[0])-1, func([]byte) error { return nil }), errs.ErrFrame)
	wantError(t, GetFrames(t.Context(), conn, []byte("nobody"), 400, func([]byte) error { return nil }), errs.ErrUpload)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := GetFrames(ctx, conn, []byte("u"), 400, func([]byte) error { return nil }); status.Code(err) != codes.Canceled {
		t.Fatalf("got %v", err)
	}
}
