package rpc

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/cryptflow/cryptflow/go/buffers"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
)

// Limits of a connection, each with its reason.
const (
	// MaxMessage is the largest message a service takes: the largest frame,
	// 418 KB, in a batch with its neighbour, with room for metadata.
	MaxMessage = 1 << 20
	// MaxDecide is the largest request for a decision: the manifest of the
	// largest cohort, and for each of its clients the largest canaries with the
	// path of the largest update. Aggregators alone may send it, to key services.
	MaxDecide = 12 << 20
	// maxReply is the largest message a client takes: a manifest and a
	// release of the largest cohort.
	maxReply = 4 << 20
	// window is what one stream may have in flight. It is static, so that a
	// service's memory follows from the number of its streams.
	window = 256 << 10
	// writeBuffer is what one write of a connection takes together. A
	// connection that is idle holds none.
	writeBuffer = 64 << 10
	// maxStreams bounds the calls of one connection.
	maxStreams = 16
)

type callerKey struct{}

// Caller is the authenticated identity behind a request.
func Caller(ctx context.Context) (identity.Identity, error) {
	if id, ok := ctx.Value(callerKey{}).(identity.Identity); ok {
		return id, nil
	}
	return identity.Identity{}, errs.ErrUnauthenticated
}

// WithCaller returns a context as the interceptors make it, for tests and for
// calls within a process.
func WithCaller(ctx context.Context, id identity.Identity) context.Context {
	return context.WithValue(ctx, callerKey{}, id)
}

type certificateKey struct{}

// WithCertificate returns a context whose caller has a certificate, for tests.
func WithCertificate(ctx context.Context, c *x509.Certificate) context.Context {
	return context.WithValue(ctx, certificateKey{}, c)
}

// VerifyCaller reports ErrSignature unless the key of the caller's certificate
// signed the bytes. It returns the certificate, in DER: whoever keeps it beside
// the signature can show later who signed.
func VerifyCaller(ctx context.Context, b, signature []byte) ([]byte, error) {
	c, ok := ctx.Value(certificateKey{}).(*x509.Certificate)
	if l, linked := linkOf(ctx); !ok && linked && len(l.chain) > 0 {
		c, ok = l.chain[0], true
	}
	if !ok {
		return nil, errs.ErrUnauthenticated
	}
	return c.Raw, identity.VerifyBy(c, b, signature)
}

// Observer is told of every call when it ends. code is "OK" or CF_….
type Observer func(method, code string, took time.Duration)

// Server is a gRPC server and everybody who is connected to it.
type Server struct {
	*grpc.Server
	crowd *crowd
}

// Drop ends the connections of everybody whose certificates are denied.
func (s *Server) Drop(denied func(chain []*x509.Certificate) error) { s.crowd.drop(denied) }

// NewServer makes a gRPC server that demands mutual TLS, allows what the table
// lists, bounds what each identity can hold, maps errors, survives panics and
// reports calls. before may refuse a call once its request is there; nil
// refuses none.
func NewServer(c *identity.Credentials, table identity.Table, limits Limits, log *slog.Logger, observe Observer,
	before func(method string) error) *Server {
	crowd := newCrowd(limits, log)
	g := &gate{table: table, log: log, observe: observe, crowd: crowd, before: before}
	s := grpc.NewServer(
		grpc.Creds(noted{gathering{credentials.NewTLS(c.Server())}, log, crowd}),
		grpc.MaxRecvMsgSize(largest(c.Self.Role)), grpc.MaxSendMsgSize(maxReply),
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(4*window),
		grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(16<<10),
		grpc.ReadBufferSize(16<<10), grpc.WriteBufferSize(writeBuffer),
		experimental.BufferPool(pool(c.Self.Role)),
		grpc.ConnectionTimeout(15*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.InTapHandle(g.tap), grpc.UnaryInterceptor(g.unary), grpc.StreamInterceptor(g.stream),
	)
	return &Server{s, crowd}
}

// largest is the largest message that gRPC takes; [messageLimit] bounds each
// method to what it needs.
func largest(service identity.Role) int {
	if service == identity.KMS {
		return MaxDecide
	}
	return MaxMessage
}

// pool recycles the buffers of connections to and of a service. Those of the
// aggregator, through which frames go, are handed on as they are; those of the
// key service may have held a round's keys and are cleared whenever they are
// taken, as gRPC does.
func pool(service identity.Role) mem.BufferPool {
	if service == identity.Aggregator {
		return buffers.Pool
	}
	return mem.DefaultBufferPool()
}

type gate struct {
	table   identity.Table
	log     *slog.Logger
	observe Observer
	crowd   *crowd
	before  func(method string) error
}

func (g *gate) admit(ctx context.Context, method string) (context.Context, identity.Identity, error) {
	l, ok := linkOf(ctx)
	if !ok {
		return ctx, identity.Identity{}, fmt.Errorf("the connection is not one of this service: %w", errs.ErrUnauthenticated)
	}
	id := l.id
	return WithCaller(ctx, id), id, g.table.Allow(id, method)
}

func (g *gate) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo,
	next grpc.UnaryHandler) (reply any, err error) {
	began := time.Now()
	ctx, id, err := g.admit(ctx, info.FullMethod)
	arrived(ctx)
	forget(request)
	if err == nil && g.before != nil {
		err = g.before(info.FullMethod)
	}
	if err == nil {
		err = g.guard(info.FullMethod, func() error {
			reply, err = next(ctx, request)
			return err
		})
	}
	if err != nil {
		reply = nil
	}
	return reply, g.finish(info.FullMethod, id, began, err)
}

func (g *gate) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	began := time.Now()
	ctx, id, err := g.admit(s.Context(), info.FullMethod)
	if err == nil {
		err = ended(ctx, g.guard(info.FullMethod, func() error { return next(srv, &callStream{s, ctx}) }))
	}
	return g.finish(info.FullMethod, id, began, err)
}

// guard turns a panic into an error; its stack goes to the log, its value does
// not: it may come from what was being worked on.
func (g *gate) guard(method string, call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("handler panicked", "method", method, "stack", string(debug.Stack()))
			err = errs.ErrInternal
		}
	}()
	return call()
}

// finish logs what was refused or failed, reports the call and maps the error.
func (g *gate) finish(method string, id identity.Identity, began time.Time, err error) error {
	code := "OK"
	if err != nil {
		code = errs.Find(err).Code
		if s, ok := status.FromError(err); ok && errs.Parse(s.Message()) == nil {
			code = "GRPC_" + s.Code().String()
		}
		level := slog.LevelInfo
		switch {
		case errors.Is(err, context.Canceled):
			level, code = slog.LevelDebug, errs.ErrCancelled.Code
		case code == errs.ErrInternal.Code:
			level = slog.LevelError
		case errs.Find(err).Kind == errs.Denied:
			level = slog.LevelWarn
		}
		g.log.Log(context.Background(), level, "refused", "method", method, "caller", id.String(), "code", code, "error", err.Error())
	}
	if g.observe != nil {
		g.observe(method, code, time.Since(began))
	}
	return ToStatus(err)
}
