package arrowio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow/go/v15/arrow/flight"

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
	frames     *column // of the last message
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
	var err error
	c.frames, err = checkMessage(d, c.n == 0)
	return err
}

// column is the frames of one batch, within the body of its message.
type column struct{ offsets, data []byte }

// Len is the number of frames.
func (c *column) Len() int { return len(c.offsets)/8 - 1 }

func (c *column) offset(i int) int64 { return int64(binary.LittleEndian.Uint64(c.offsets[8*i:])) }

// Value is frame i.
func (c *column) Value(i int) []byte { return c.data[c.offset(i):c.offset(i+1):c.offset(i+1)] }

// check refuses offsets that lead outside the data or to an empty frame.
func (c *column) check() error {
	last := int64(0)
	for i := range c.Len() + 1 {
		at := c.offset(i)
		if at < last || at > int64(len(c.data)) {
			return fmt.Errorf("offsets that do not ascend within the data: %w", errs.ErrArrow)
		}
		if i > 0 && at == last {
			return fmt.Errorf("an empty frame: %w", errs.ErrArrow)
		}
		last = at
	}
	return nil
}

// batches decodes a stream of frames. Only the schema passes through Arrow's
// own reader: batches are decoded in place, without a copy.
type batches struct{ checked *checked }

// newBatches reads the schema. Messages may have limit bytes.
func newBatches(s source, limit int) (b *batches, err error) {
	b = &batches{checked: &checked{source: s, limit: limit}}
	defer func() {
		if recover() != nil {
			err = b.cause(errs.ErrArrow)
		}
	}()
	reader, err := flight.NewRecordReader(b.checked)
	if err != nil {
		return nil, b.cause(err)
	}
	defer reader.Release()
	if !reader.Schema().Equal(frameSchema) {
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
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the stream ended before its schema: %w", errs.ErrArrow)
	}
	return fmt.Errorf("the schema cannot be decoded: %w", errs.ErrArrow)
}

// next returns the frames of one more batch, and nil at the end of the stream.
// They are valid until the next call.
func (b *batches) next() (frames *column, metadata []byte, err error) {
	d, err := b.checked.Recv()
	if errors.Is(err, io.EOF) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return b.checked.frames, d.AppMetadata, nil
}
