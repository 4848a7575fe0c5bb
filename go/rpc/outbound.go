package rpc

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// outbound follows the frames that a service sends, for which calls have ended
// on the wire: gRPC counts a call as ended when its handler has returned, and
// keeps what its caller does not read.
type outbound struct {
	head [9]byte
	have int
	left int
}

// take follows the next bytes and tells of every stream that they end.
func (o *outbound) take(b []byte, ended func(stream uint32)) {
	for len(b) > 0 {
		if o.left > 0 {
			n := min(o.left, len(b))
			o.left -= n
			b = b[n:]
			continue
		}
		n := copy(o.head[o.have:], b)
		o.have += n
		b = b[n:]
		if o.have < len(o.head) {
			return
		}
		o.have = 0
		o.left = int(o.head[0])<<16 | int(o.head[1])<<8 | int(o.head[2])
		kind, flags := http2.FrameType(o.head[3]), http2.Flags(o.head[4])
		if kind == http2.FrameRSTStream || kind == http2.FrameHeaders && flags.Has(http2.FlagHeadersEndStream) {
			ended(binary.BigEndian.Uint32(o.head[5:]) &^ (1 << 31))
		}
	}
}

// began notes a call that the peer has opened.
func (l *link) began(stream uint32, method string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alive[stream] = isTransfer(method)
}

// over notes a call that has ended on the wire.
func (l *link) over(stream uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.alive, stream)
}

// onWire counts the calls of a connection that have not ended on the wire.
func (l *link) onWire() (calls, transfers int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, transfer := range l.alive {
		if transfer {
			transfers++
		}
	}
	return len(l.alive), transfers
}

// Write passes on what the service sends.
func (l *link) Write(b []byte) (int, error) {
	l.out.take(b, l.over)
	return l.Conn.Write(b)
}
