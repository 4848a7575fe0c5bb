package arrowio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/flight"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/cryptflow/cryptflow/go/errs"
)

// source is what both ends receive messages from.
type source interface {
	Recv() (*flight.FlightData, error)
}

// checked passes on messages that may be decoded. It keeps the error that
// ended the stream: Arrow's reader wraps some and swallows others.
type checked struct {
	source
	limit      int // bytes of one message
	n          int
	descriptor *flight.FlightDescriptor
	failed     error
}

func (c *checked) Recv() (*flight.FlightData, error) {
	d, err := c.source.Recv()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err == nil {
		err = c.check(d)
	}
	if err != nil {
		c.failed = err
		return nil, err
	}
	c.n++
	return d, nil
}

func (c *checked) check(d *flight.FlightData) error {
	if size := len(d.DataHeader) + len(d.DataBody); size > c.limit {
		return fmt.Errorf("a message of %d bytes, at most %d are taken: %w", size, c.limit, errs.ErrLimit)
	}
	if c.n == 0 {
		c.descriptor = d.FlightDescriptor
	} else if d.FlightDescriptor != nil {
		return fmt.Errorf("a second descriptor: %w", errs.ErrArrow)
	}
	return checkMessage(d, c.n == 0)
}

// bounded is an allocator that refuses more than a limit by panicking, which
// Arrow's reader turns into an error. The checks before it make it idle; it
// stands for what they may have overlooked.
type bounded struct {
	memory.Allocator
	left    int
	refused bool
}

func (b *bounded) take(n int) {
	if n > b.left {
		b.refused = true
		panic("over the limit")
	}
	b.left -= n
}

func (b *bounded) Allocate(n int) []byte {
	b.take(n)
	return b.Allocator.Allocate(n)
}

func (b *bounded) Reallocate(n int, old []byte) []byte {
	b.take(n - len(old))
	return b.Allocator.Reallocate(n, old)
}

func (b *bounded) Free(old []byte) {
	b.left += len(old)
	b.Allocator.Free(old)
}

// batches decodes a stream of frames.
type batches struct {
	checked *checked
	memory  *bounded
	reader  *flight.Reader
}

// newBatches reads the schema. Messages may have limit bytes; decoding one may
// allocate twice that, as its offsets and its data may each be the whole body.
func newBatches(s source, limit int) (b *batches, err error) {
	return newBatchesWithin(s, limit, 2*limit+256)
}

func newBatchesWithin(s source, limit, allocate int) (b *batches, err error) {
	b = &batches{
		checked: &checked{source: s, limit: limit},
		memory:  &bounded{Allocator: memory.NewGoAllocator(), left: allocate},
	}
	defer b.recovered(&err)
	b.reader, err = flight.NewRecordReader(b.checked, ipc.WithAllocator(b.memory))
	if err != nil {
		return nil, b.cause(err)
	}
	if !b.reader.Schema().Equal(frameSchema) {
		return nil, fmt.Errorf("the schema is not one column frame: large_binary not null: %w", errs.ErrArrow)
	}
	return b, nil
}

// cause prefers what the transport and the checks said to what Arrow made of
// it. Arrow's own texts are left out: they may quote the peer's bytes.
func (b *batches) cause(err error) error {
	switch {
	case b.checked.failed != nil:
		return b.checked.failed
	case b.memory.refused:
		return fmt.Errorf("decoding a batch takes more than its message: %w", errs.ErrLimit)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the stream ended before its schema: %w", errs.ErrArrow)
	case err != nil:
		return fmt.Errorf("the batch cannot be decoded: %w", errs.ErrArrow)
	}
	return nil
}

func (b *batches) recovered(err *error) {
	if recover() != nil {
		*err = b.cause(errs.ErrArrow)
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
		if at < last || at > size {
			return nil, fmt.Errorf("offsets that do not ascend within the data: %w", errs.ErrArrow)
		}
		if i > 0 && at == last {
			return nil, fmt.Errorf("an empty frame: %w", errs.ErrArrow)
		}
		last = at
	}
	return col, nil
}
