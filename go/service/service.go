// Package service assembles processes: configuration, credentials, storage,
// the gRPC server with its interceptors, health, metrics, and an orderly end.
//
// # Security
//
// Health and metrics answer on loopback only, without authentication, and say
// nothing but counts. Logs carry names, states and codes.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/cryptflow/cryptflow/go/aggregator"
	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/kms"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage/segment"
	"github.com/cryptflow/cryptflow/go/storage/sqlite"
)

// Running is a service that answers.
type Running struct {
	Address string // that it listens on
	Admin   string // health and metrics; empty when off

	log     *slog.Logger
	server  *rpc.Server
	health  *health.Server
	admin   *http.Server
	failed  chan error
	stop    context.CancelFunc
	ending  []func() error // in order
	working sync.WaitGroup
	once    sync.Once
	err     error
}

// grace is how long calls may go on after a stop was asked for.
const grace = 10 * time.Second

// Wait returns when the context ends or the server fails, after an orderly
// end.
func (r *Running) Wait(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
	case err = <-r.failed:
	}
	return errors.Join(err, r.Close())
}

// Close stops the service: it takes no more calls, lets the running ones end
// for a while, and closes what it opened.
func (r *Running) Close() error {
	r.once.Do(func() {
		r.log.Info("stopping")
		r.health.Shutdown()
		r.stop()
		done := make(chan struct{})
		go func() { r.server.GracefulStop(); close(done) }()
		select {
		case <-done:
		case <-time.After(grace):
			r.server.Stop()
			<-done
		}
		var all []error
		if r.admin != nil {
			all = append(all, r.admin.Close())
		}
		r.working.Wait()
		for _, f := range r.ending {
			all = append(all, f())
		}
		r.err = errors.Join(all...)
		r.log.Info("stopped")
	})
	return r.err
}

// base is what both services begin with.
type base struct {
	*Running
	ctx         context.Context
	credentials *identity.Credentials
	denied      *identity.Denied // nil without a deny list
	before      func(method string) error
	metrics     *metrics
	listener    net.Listener
}

// metrics are a handful of counters.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	noticed  *prometheus.CounterVec // of a key service
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cryptflow_calls_total", Help: "Calls that ended, by method and code."}, []string{"method", "code"}),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "cryptflow_call_seconds", Help: "Duration of calls, by method.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}, []string{"method"}),
	}
	m.noticed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cryptflow_round_faults_total",
		Help: "Key service: clients missing from released sets or refused by name, sums that did not open, reports that differ.",
	}, []string{"kind"})
	m.registry.MustRegister(m.calls, m.seconds, m.noticed, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(method, code string, took time.Duration) {
	m.calls.WithLabelValues(method, code).Inc()
	m.seconds.WithLabelValues(method).Observe(took.Seconds())
}

// begin loads credentials and takes the port.
func begin(c *config.Service, role identity.Role, log *slog.Logger) (*base, error) {
	log = slog.New(newQuiet(log.Handler()))
	credentials, err := c.Credentials.Load(time.Now())
	if err != nil {
		return nil, err
	}
	if credentials.Self.Role != role {
		return nil, fmt.Errorf("%s is the certificate of %s; a %s is needed: %w", c.Certificate, credentials.Self, role, errs.ErrCertificate)
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %v: %w", err, errs.ErrConfig)
	}
	denied, err := openDenied(c, log)
	if err != nil {
		return nil, err
	}
	credentials.Deny(denied)
	b := &base{credentials: credentials, denied: denied, metrics: newMetrics()}
	b.Running = &Running{log: log, failed: make(chan error, 2), health: health.NewServer()}
	b.ctx, b.stop = context.WithCancel(context.Background())
	if b.listener, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, cannotListen("listen", c.Listen, err)
	}
	b.Address = b.listener.Addr().String()
	return b, nil
}

// cannotListen says which setting names a port that cannot be taken.
func cannotListen(setting, address string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("another process has the port of %s = %q; stop it, or name another port: %w", setting, address, errs.ErrConfig)
	}
	return fmt.Errorf("%s = %q: %v: %w", setting, address, err, errs.ErrConfig)
}

// serve starts answering.
func (b *base) serve(c *config.Service, table identity.Table, register func(*grpc.Server)) error {
	b.server = rpc.NewServer(b.credentials, table, rpc.DefaultLimits(), b.log, b.metrics.observe, b.before)
	healthpb.RegisterHealthServer(b.server, b.health)
	register(b.server.Server)
	if c.Admin != "" {
		if err := b.serveAdmin(c.Admin); err != nil {
			return err
		}
	}
	b.working.Go(func() { b.failed <- b.server.Serve(b.listener) })
	b.working.Go(b.remind)
	b.working.Go(b.watch)
	b.log.Info("serving", "address", b.Address, "admin", b.Admin, "identity", b.credentials.Self.String())
	return nil
}

// serveAdmin answers health and metrics on loopback.
func (b *base) serveAdmin(address string) error {
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || (host != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return fmt.Errorf("admin_listen is %q; it has no authentication and answers on loopback only: %w", address, errs.ErrConfig)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return cannotListen("admin_listen", address, err)
	}
	b.Admin = l.Addr().String()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(b.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	b.admin = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	b.working.Go(func() {
		if err := b.admin.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			b.failed <- err
		}
	})
	return nil
}

// remind warns every day before the certificate ends.
func (b *base) remind() {
	tick := time.NewTicker(24 * time.Hour)
	defer tick.Stop()
	for {
		if w := b.credentials.Warning(time.Now()); w != "" {
			b.log.Warn(w)
		}
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tune keeps the garbage of message buffers small beside what is served.
func tune() { debug.SetGCPercent(50) }

// NewLogger writes lines of key=value to standard error.
func NewLogger(level, role string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log is %q; it is debug, info, warn or error: %w", level, errs.ErrConfig)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})).With("service", role), nil
}

// StartKMS runs a key service.
func StartKMS(c *config.KMS, version string, log *slog.Logger) (*Running, error) {
	b, err := begin(&c.Service, identity.KMS, log)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Running, error) {
		b.stop()
		all := []error{err, b.listener.Close()}
		for _, f := range b.ending {
			all = append(all, f())
		}
		return nil, errors.Join(all...)
	}
	prepared, err := prepareKMS(c, b.credentials.Self.Name, version, b.log)
	if err != nil {
		return fail(err)
	}
	b.ending = append(b.ending, prepared.Ledger.Close)
	prepared.Noticed = func(kind string, n int) { b.metrics.noticed.WithLabelValues(kind).Add(float64(n)) }
	s, err := kms.New(*prepared)
	if err != nil {
		return fail(err)
	}
	b.before = rpc.KeepFree(c.Data, c.ReserveMiB<<20)
	if err := b.serve(&c.Service, rpc.KeyTable(), func(g *grpc.Server) { pb.RegisterKeyServiceServer(g, s) }); err != nil {
		return fail(err)
	}
	b.working.Go(func() { s.Run(b.ctx, 2*time.Second) })
	return b.Running, nil
}

// patience is how long a transfer that stands still keeps others waiting.
const patience = 50 * time.Millisecond

// callerName says whose stream it is.
func callerName(ctx context.Context) string {
	id, err := rpc.Caller(ctx)
	if err != nil {
		return ""
	}
	return id.String()
}

// batchBytes is the size of one outgoing message of frames.
const batchBytes = 256 << 10

// StartAggregator runs an aggregator.
func StartAggregator(c *config.Aggregator, version string, log *slog.Logger) (*Running, error) {
	b, err := begin(&c.Service, identity.Aggregator, log)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Running, error) {
		b.stop()
		all := []error{err, b.listener.Close()}
		for _, f := range b.ending {
			all = append(all, f())
		}
		return nil, errors.Join(all...)
	}
	admins, err := c.Admins()
	if err != nil {
		return fail(err)
	}
	signing, err := identity.OpenSigning(filepath.Join(c.Data, "signing.pem"), true)
	if err != nil {
		return fail(err)
	}
	ledger, err := sqlite.Open(filepath.Join(c.Data, "ledger.db"))
	if err != nil {
		return fail(err)
	}
	b.ending = append(b.ending, ledger.Close)
	blobs, err := segment.Open(filepath.Join(c.Data, "segments"), segment.Options{Reserve: c.ReserveMiB << 20})
	if err != nil {
		return fail(err)
	}
	b.ending = append([]func() error{blobs.Close}, b.ending...)
	keys, err := rpc.Dial(c.KMS, b.credentials, identity.KMS, false)
	if err != nil {
		return fail(err)
	}
	b.ending = append([]func() error{keys.Close}, b.ending...)
	workers := c.Workers
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	s, err := aggregator.New(aggregator.Config{
		Name: b.credentials.Self.Name, Version: version, Signing: signing, Admins: admins, Ledger: ledger, Blobs: blobs,
		Keys: pb.NewKeyServiceClient(keys), Workers: workers, Log: b.log, Poll: time.Second,
	})
	if err != nil {
		return fail(err)
	}
	b.ending = append([]func() error{func() error { s.Close(); return nil }}, b.ending...)
	tune()
	stop := b.stop
	b.stop = func() { s.Stop(); stop() }
	if err := b.serve(&c.Service, rpc.AggregatorTable(), func(g *grpc.Server) {
		pb.RegisterAggregatorServiceServer(g, s)
		arrowio.RegisterFlight(g, s, s, arrowio.FlightLimits{
			Streams: c.Streams, MessageBytes: rpc.MaxMessage, BatchBytes: batchBytes,
			Idle: time.Minute, Patience: patience, Caller: callerName,
		})
	}); err != nil {
		return fail(err)
	}
	return b.Running, nil
}
