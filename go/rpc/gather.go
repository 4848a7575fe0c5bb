package rpc

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"

	"github.com/cryptflow/cryptflow/go/buffers"
)

// gathering makes TLS write the records of one message together: crypto/tls
// hands each of 16 KiB to the kernel by itself, and wakes the peer for it.
type gathering struct {
	credentials.TransportCredentials
}

func (g gathering) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	raw := &records{Conn: c}
	secured, info, err := g.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	return &gathered{Conn: secured, raw: raw}, info, nil
}

func (g gathering) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	raw := &records{Conn: c}
	secured, info, err := g.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	return &gathered{Conn: secured, raw: raw}, info, nil
}

func (g gathering) Clone() credentials.TransportCredentials {
	return gathering{g.TransportCredentials.Clone()}
}

// gathered is a TLS connection over records.
type gathered struct {
	net.Conn
	raw *records
}

// Write returns when everything was handed to the kernel, as TLS's does.
func (g *gathered) Write(b []byte) (int, error) {
	g.raw.hold()
	n, err := g.Conn.Write(b)
	if flushed := g.raw.flush(); err == nil && flushed != nil {
		return 0, flushed
	}
	return n, err
}

// Close does not wait for a write that waits for the peer.
func (g *gathered) Close() error {
	if !g.raw.mu.TryLock() {
		return errors.Join(g.raw.Close(), g.Conn.Close())
	}
	g.raw.mu.Unlock()
	return g.Conn.Close()
}

// tooMany is how many bytes of records wait at most.
const tooMany = 72 << 10

// records is the connection below TLS. While it is held, what is written
// waits in a recycled buffer.
type records struct {
	net.Conn
	mu     sync.Mutex
	held   int
	buffer *[]byte // nil when nothing waits
	failed error
}

func (r *records) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held++
}

func (r *records) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held--
	return r.send()
}

// send writes what waits. After a failure the connection is dead: nobody
// knows what of it has left.
func (r *records) send() error {
	if r.buffer == nil {
		return r.failed
	}
	if r.failed == nil {
		_, r.failed = r.Conn.Write(*r.buffer)
	}
	buffers.Pool.Put(r.buffer)
	r.buffer = nil
	return r.failed
}

func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil {
		return 0, r.failed
	}
	if r.buffer != nil && len(*r.buffer)+len(b) > tooMany {
		if err := r.send(); err != nil {
			return 0, err
		}
	}
	if r.held == 0 || len(b) > tooMany {
		if err := r.send(); err != nil {
			return 0, err
		}
		n, err := r.Conn.Write(b)
		r.failed = err
		return n, err
	}
	if r.buffer == nil {
		r.buffer = buffers.Pool.Get(tooMany)
		*r.buffer = (*r.buffer)[:0]
	}
	*r.buffer = append(*r.buffer, b...)
	return len(b), nil
}
