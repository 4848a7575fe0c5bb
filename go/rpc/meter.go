package rpc

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// Meter counts the bytes of messages in both directions, with gRPC's framing,
// without that of HTTP/2 and TLS.
type Meter struct{ up, down atomic.Int64 }

// Bytes is what was sent and received so far.
func (m *Meter) Bytes() (up, down int64) { return m.up.Load(), m.down.Load() }

// TagRPC implements stats.Handler.
func (*Meter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn implements stats.Handler.
func (*Meter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (*Meter) HandleConn(context.Context, stats.ConnStats) {}

// HandleRPC implements stats.Handler.
func (m *Meter) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.OutPayload:
		m.up.Add(int64(s.WireLength))
	case *stats.InPayload:
		m.down.Add(int64(s.WireLength))
	}
}
