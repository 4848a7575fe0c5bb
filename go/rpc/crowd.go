package rpc

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
)

// crowd is everybody who is connected to a service, by identity.
type crowd struct {
	limits Limits
	log    *slog.Logger

	mu      sync.Mutex
	guests  map[identity.Identity]*guest
	pending map[*handshake]struct{}
}

// guest is what one identity holds. It is forgotten when it holds nothing.
type guest struct {
	links map[*link]struct{}
	calls map[*call]struct{}
}

// handshake is a connection of somebody who is not known yet.
type handshake struct {
	conn  net.Conn
	began time.Time
}

func newCrowd(l Limits, log *slog.Logger) *crowd {
	return &crowd{limits: l, log: log, guests: map[identity.Identity]*guest{}, pending: map[*handshake]struct{}{}}
}

// guest is called with the lock held.
func (c *crowd) guest(id identity.Identity) *guest {
	p := c.guests[id]
	if p == nil {
		p = &guest{links: map[*link]struct{}{}, calls: map[*call]struct{}{}}
		c.guests[id] = p
	}
	return p
}

// forget is called with the lock held.
func (c *crowd) forget(id identity.Identity, p *guest) {
	if len(p.links) == 0 && len(p.calls) == 0 {
		delete(c.guests, id)
	}
}

// knock begins a handshake. Strangers can hold no more than a number of them:
// the oldest gives way, which an honest one has long finished.
func (c *crowd) knock(conn net.Conn) *handshake {
	h := &handshake{conn: conn, began: time.Now()}
	c.mu.Lock()
	c.pending[h] = struct{}{}
	var oldest *handshake
	if len(c.pending) > c.limits.Handshakes {
		for x := range c.pending {
			if oldest == nil || x.began.Before(oldest.began) {
				oldest = x
			}
		}
		delete(c.pending, oldest)
	}
	c.mu.Unlock()
	if oldest != nil {
		_ = oldest.conn.Close() // whoever shakes hands there hears of it
	}
	return h
}

// known ends a handshake.
func (c *crowd) known(h *handshake) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, h)
}

// link is an authenticated connection. Its bytes are followed before gRPC sees
// them.
type link struct {
	net.Conn
	crowd   *crowd
	id      identity.Identity
	chain   []*x509.Certificate
	in      *inbound // of the goroutine that reads
	out     outbound // of the one that writes
	mu      sync.Mutex
	alive   map[uint32]bool // calls that have not ended on the wire; true: a transfer
	heard   atomic.Int64    // when it last sent something
	expires *time.Timer
	once    sync.Once
}

// linked is what gRPC hands on as a connection's credentials.
type linked struct {
	credentials.TLSInfo
	link *link
}

// admit takes a connection in, until its certificate ends or is denied.
func (c *crowd) admit(conn net.Conn, info credentials.TLSInfo) (*link, error) {
	id, err := identity.Peer(info.State)
	if err != nil {
		return nil, err
	}
	l := &link{Conn: conn, crowd: c, id: id, chain: info.State.VerifiedChains[0], alive: map[uint32]bool{}}
	l.in = newInbound(func(method string) int64 { return messageLimit(id, method) })
	l.in.began, l.in.reset = l.began, l.over
	l.heard.Store(time.Now().UnixNano())
	end := l.chain[0].NotAfter
	for _, x := range l.chain {
		if x.NotAfter.Before(end) {
			end = x.NotAfter
		}
	}
	c.mu.Lock()
	p := c.guest(id)
	p.links[l] = struct{}{}
	var silent *link
	if len(p.links) > c.limits.Connections {
		for x := range p.links {
			if x != l && (silent == nil || x.heard.Load() < silent.heard.Load()) {
				silent = x
			}
		}
	}
	l.expires = time.AfterFunc(time.Until(end), func() { l.end("its certificate has expired") })
	c.mu.Unlock()
	if silent != nil {
		silent.end("the same identity opened another one")
	}
	return l, nil
}

// end closes a connection for a reason, which the log has.
func (l *link) end(why string) {
	l.crowd.log.Warn("connection ended", "peer", l.id.String(), "reason", why)
	_ = l.Close() // gRPC hears of it from its next read
}

// Read passes on what the peer sends while it keeps within its limits.
func (l *link) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 {
		l.heard.Store(time.Now().UnixNano())
		bad := l.in.take(b[:n])
		if calls, _ := l.onWire(); bad == nil && calls > maxOpen {
			bad = fmt.Errorf("it reads none of its answers: %w", errs.ErrLimit)
		}
		if bad != nil {
			l.end(bad.Error())
			return 0, bad
		}
	}
	return n, err
}

// Close is called by gRPC and by whoever ends the connection.
func (l *link) Close() error {
	l.once.Do(func() {
		l.expires.Stop()
		l.crowd.mu.Lock()
		defer l.crowd.mu.Unlock()
		p := l.crowd.guest(l.id)
		delete(p.links, l)
		l.crowd.forget(l.id, p)
	})
	return l.Conn.Close()
}

// drop ends every connection whose certificates are denied.
func (c *crowd) drop(denied func(chain []*x509.Certificate) error) {
	c.mu.Lock()
	var gone []*link
	for _, p := range c.guests {
		for l := range p.links {
			if denied(l.chain) != nil {
				gone = append(gone, l)
			}
		}
	}
	c.mu.Unlock()
	for _, l := range gone {
		l.end("its certificate is on the deny list")
	}
}
