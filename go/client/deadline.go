package client

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callTime is how long one call may take beyond what it asks the service to wait.
const callTime = 30 * time.Second

// limit is how long a call may stay silent: callTime, or the patience where that
// is shorter. A service that takes calls and never answers them is then as good
// as one that is away.
func (x *Client) limit() time.Duration { return min(callTime, x.c.Patience) }

// waits is a request that asks the service to wait some seconds.
type waits interface{ GetSeconds() uint32 }

// withDeadline gives every unary call a deadline of its own.
func (x *Client) withDeadline(
	ctx context.Context, method string, in, out any, conn *grpc.ClientConn, call grpc.UnaryInvoker, o ...grpc.CallOption,
) error {
	limit := x.limit()
	if w, ok := in.(waits); ok {
		limit += time.Duration(w.GetSeconds()) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return call(ctx, method, in, out, conn, o...)
}

// withProgress ends a stream on which nothing moves for as long as a call may
// take. How long the whole stream takes does not matter.
func (x *Client) withProgress(
	ctx context.Context, d *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, o ...grpc.CallOption,
) (grpc.ClientStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &watched{limit: x.limit(), cancel: cancel}
	s.timer = time.AfterFunc(s.limit, func() {
		s.silent.Store(true)
		cancel()
	})
	var err error
	if s.ClientStream, err = open(ctx, d, conn, method, o...); err != nil {
		s.end()
		return nil, s.told(err)
	}
	return s, nil
}

// watched is a stream whose every message starts its time anew.
type watched struct {
	grpc.ClientStream
	limit  time.Duration
	timer  *time.Timer
	cancel context.CancelFunc
	silent atomic.Bool
}

// SendMsg leaves the stream open when it fails: why it did is received.
func (s *watched) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	if err == nil {
		s.moved()
	}
	return s.told(err)
}

// RecvMsg ends the stream when it fails.
func (s *watched) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil {
		s.end()
		return s.told(err)
	}
	s.moved()
	return nil
}

// moved notes that a message passed.
func (s *watched) moved() {
	if s.timer.Stop() {
		s.timer.Reset(s.limit)
	}
}

func (s *watched) end() {
	s.timer.Stop()
	s.cancel()
}

// told is the error of a stream: its silence where that ended it.
func (s *watched) told(err error) error {
	if err != nil && s.silent.Load() {
		return status.Errorf(codes.DeadlineExceeded, "nothing moved for %v", s.limit)
	}
	return err
}
