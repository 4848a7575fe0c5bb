package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
)

// call is one that a peer has opened.
type call struct {
	method string
	link   *link
	began  time.Time
	end    context.CancelCauseFunc
	first  *time.Timer // until its first message is there
}

type openKey struct{}

// tap admits a call before a byte of its message is kept: its caller's role
// may call the method, and its caller has not too many calls open. A call
// whose first message does not come is ended.
func (g *gate) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	began := time.Now()
	ctx, id, err := g.admit(ctx, info.FullMethodName)
	if err != nil {
		return ctx, g.finish(g.known(info.FullMethodName), id, began, err)
	}
	inner, end := context.WithCancelCause(ctx)
	l, _ := linkOf(ctx)
	x := &call{method: info.FullMethodName, link: l, began: began, end: end}
	giveWay, err := g.crowd.open(id, x)
	if err != nil {
		end(err)
		return ctx, g.finish(info.FullMethodName, id, began, err)
	}
	if giveWay != nil {
		giveWay()
	}
	x.first = time.AfterFunc(g.crowd.limits.First, func() {
		end(fmt.Errorf("no message came in %v: %w", g.crowd.limits.First, errs.ErrTimeout))
	})
	context.AfterFunc(inner, func() {
		end(nil)
		x.first.Stop()
		g.crowd.leave(id, x)
	})
	return context.WithValue(inner, openKey{}, x), nil
}

// known is a method's name where the table has it: what a peer makes up goes
// into no log and no metric.
func (g *gate) known(method string) string {
	if _, ok := g.table[method]; ok {
		return method
	}
	return "unknown"
}

// open counts a call. Too many are refused; of too many transfers the oldest
// gives way: a client whose connection broke begins again while the service
// still waits for the old one. Calls count until they have ended on the wire:
// a transfer that has ended, and whose end its caller does not read, goes with
// its connection.
func (c *crowd) open(id identity.Identity, x *call) (giveWay func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.guest(id)
	defer c.forget(id, p)
	calls, transfers := 0, 0
	var unread *link // with most transfers that nobody reads
	most := 0
	for l := range p.links {
		n, moving := l.onWire()
		calls += n
		transfers += moving
		for y := range p.calls {
			if y.link == l && isTransfer(y.method) {
				moving--
			}
		}
		if l == x.link && isTransfer(x.method) {
			moving-- // this one
		}
		if moving > most {
			unread, most = l, moving
		}
	}
	if max(calls, len(p.calls)) > c.limits.Calls {
		return nil, fmt.Errorf("%d calls of %s are open: %w", calls, id, errs.ErrLimit)
	}
	p.calls[x] = struct{}{}
	if !isTransfer(x.method) || transfers <= c.limits.Transfers {
		return nil, nil
	}
	if unread != nil {
		return func() { unread.end("it does not read what it asked for") }, nil
	}
	var oldest *call
	for y := range p.calls {
		if y != x && isTransfer(y.method) && (oldest == nil || y.began.Before(oldest.began)) {
			oldest = y
		}
	}
	if oldest == nil {
		return nil, nil
	}
	return func() {
		oldest.end(fmt.Errorf("a newer transfer of the same client took its place: %w", errs.ErrCancelled))
	}, nil
}

func (c *crowd) leave(id identity.Identity, x *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.guest(id)
	delete(p.calls, x)
	c.forget(id, p)
}

// arrived notes that a call's first message is there.
func arrived(ctx context.Context) {
	if x, ok := ctx.Value(openKey{}).(*call); ok {
		x.first.Stop()
	}
}

// ended prefers the reason for which a service ended a call to what the call
// made of it.
func ended(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if err == nil || cause == nil || errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return err
	}
	return cause
}

// linkOf is the connection of a call.
func linkOf(ctx context.Context) (*link, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	info, ok := p.AuthInfo.(linked)
	return info.link, ok
}

// callStream is a stream whose context has the caller.
type callStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *callStream) Context() context.Context { return s.ctx }

func (s *callStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		arrived(s.ctx)
		forget(m)
	}
	return err
}
