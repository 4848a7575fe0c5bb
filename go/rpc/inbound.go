package rpc

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Bounds of what a connection may send beside its messages.
const (
	// maxHead is the largest header block; gRPC takes 16 KiB of it decoded.
	maxHead = 32 << 10
	// maxOpen is how many calls may stand open by the peer's own account. What
	// a service has ended and the peer has not reset is among them.
	maxOpen = 1 << 10
	// headerTable is HTTP/2's, which no service of ours changes.
	headerTable = 4096
)

// unlimited is the limit of a method that takes a stream of messages.
const unlimited = int64(1) << 62

// inbound follows what a peer sends, frame by frame, before gRPC sees it. It
// counts the bytes of every call against what its method takes: gRPC itself
// knows one limit for all methods, and keeps up to a window of every stream
// that nobody reads.
type inbound struct {
	limit func(method string) int64
	began func(stream uint32, method string)
	reset func(stream uint32)

	preface int // bytes of HTTP/2's greeting still to come
	head    [9]byte
	have    int // bytes of head
	left    int // bytes of the frame's payload still to come
	kind    http2.FrameType
	flags   http2.Flags
	stream  uint32

	last    uint32 // the highest stream that was opened
	open    map[uint32]int64
	payload []byte // of a frame with headers
	block   []byte // headers of the call being opened
	opens   uint32 // it
	ending  bool   // it has no body
	decoder *hpack.Decoder
	method  string
}

func newInbound(limit func(method string) int64) *inbound {
	in := &inbound{limit: limit, preface: len(http2.ClientPreface), open: map[uint32]int64{}}
	in.began, in.reset = func(uint32, string) {}, func(uint32) {}
	in.decoder = hpack.NewDecoder(headerTable, func(f hpack.HeaderField) {
		if f.Name == ":path" {
			in.method = f.Value
		}
	})
	in.decoder.SetMaxStringLength(maxHead)
	return in
}

// take follows the next bytes. An error ends the connection.
func (in *inbound) take(b []byte) error {
	n := min(in.preface, len(b)) // gRPC compares the greeting
	in.preface -= n
	b = b[n:]
	for len(b) > 0 {
		if in.left == 0 {
			n := copy(in.head[in.have:], b)
			in.have += n
			b = b[n:]
			if in.have < len(in.head) {
				return nil
			}
			if err := in.begin(); err != nil {
				return err
			}
			if in.left > 0 {
				continue
			}
		}
		n := min(in.left, len(b))
		if in.carriesHead() {
			in.payload = append(in.payload, b[:n]...)
		}
		in.left -= n
		b = b[n:]
		if in.left == 0 {
			if err := in.end(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in *inbound) carriesHead() bool {
	return in.kind == http2.FrameHeaders || in.kind == http2.FrameContinuation
}

// begin looks at a frame's head.
func (in *inbound) begin() error {
	in.left = int(in.head[0])<<16 | int(in.head[1])<<8 | int(in.head[2])
	in.kind, in.flags = http2.FrameType(in.head[3]), http2.Flags(in.head[4])
	in.stream = binary.BigEndian.Uint32(in.head[5:]) &^ (1 << 31)
	in.have = 0
	in.payload = in.payload[:0]
	switch {
	case in.carriesHead() && in.left+len(in.block) > maxHead:
		return fmt.Errorf("headers of more than %d bytes: %w", maxHead, errs.ErrLimit)
	case in.kind == http2.FrameData:
		left, ok := in.open[in.stream]
		if !ok || int64(in.left) > left {
			return fmt.Errorf("a message larger than its method takes: %w", errs.ErrLimit)
		}
		if left != unlimited {
			in.open[in.stream] = left - int64(in.left)
		}
		if in.flags.Has(http2.FlagDataEndStream) {
			delete(in.open, in.stream)
		}
	case in.kind == http2.FrameRSTStream:
		delete(in.open, in.stream)
		in.reset(in.stream)
	}
	return nil
}

// end looks at a frame that is whole.
func (in *inbound) end() error {
	if !in.carriesHead() {
		return nil
	}
	b := in.payload
	if in.kind == http2.FrameHeaders {
		in.block, in.opens = in.block[:0], in.stream
		in.ending = in.flags.Has(http2.FlagHeadersEndStream)
		padding := 0
		if in.flags.Has(http2.FlagHeadersPadded) && len(b) > 0 {
			padding, b = int(b[0]), b[1:]
		}
		if in.flags.Has(http2.FlagHeadersPriority) {
			b = b[min(5, len(b)):]
		}
		if padding > len(b) {
			return fmt.Errorf("headers with more padding than bytes: %w", errs.ErrArgument)
		}
		b = b[:len(b)-padding]
	}
	in.block = append(in.block, b...)
	if !in.flags.Has(http2.FlagHeadersEndHeaders) {
		return nil
	}
	in.method = ""
	if _, err := in.decoder.Write(in.block); err != nil {
		return fmt.Errorf("headers that cannot be read: %w", errs.ErrArgument)
	}
	if err := in.decoder.Close(); err != nil {
		return fmt.Errorf("headers that end early: %w", errs.ErrArgument)
	}
	in.block = in.block[:0]
	if in.ending {
		delete(in.open, in.opens)
	} else if in.opens > in.last {
		in.open[in.opens] = in.limit(in.method)
	}
	if in.opens > in.last {
		in.last = in.opens
		in.began(in.opens, in.method)
	}
	if len(in.open) > maxOpen {
		first := in.opens
		for stream := range in.open {
			first = min(first, stream)
		}
		delete(in.open, first) // bytes that still come for it end the connection
	}
	return nil
}
