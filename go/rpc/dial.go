package rpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
)

// retry lets the library send again what failed before it reached a service.
// Calls that change something are idempotent.
const retry = `{"methodConfig": [{
	"name": [{"service": "cryptflow.v1.AggregatorService"}, {"service": "cryptflow.v1.KeyService"}],
	"waitForReady": %t,
	"retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}
}]}`

// fresh begins every connection with the certificate of then, which may have
// been renewed since the last.
type fresh struct{ config func() *tls.Config }

func (f *fresh) now() credentials.TransportCredentials { return credentials.NewTLS(f.config()) }

func (f *fresh) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn,
	credentials.AuthInfo, error) {
	return f.now().ClientHandshake(ctx, authority, c)
}

func (f *fresh) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return f.now().ServerHandshake(c)
}

func (f *fresh) Info() credentials.ProtocolInfo { return f.now().Info() }

func (f *fresh) Clone() credentials.TransportCredentials { return f }

// OverrideServerName is not used: the name is that of the address.
func (f *fresh) OverrideServerName(string) error { return nil }

// Dial prepares a connection to a service of the given role. Nothing is sent
// until the first call; the connection is made again when it breaks. With
// patient, calls wait for a service that is not up until their context ends.
func Dial(address string, c *identity.Credentials, service identity.Role, patient bool, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	return dial(address, &fresh{func() *tls.Config { return c.Client(service) }}, service, patient, more...)
}

// DialPeer is Dial to another address of a service that is known: a peer with
// another name is refused.
func DialPeer(address string, c *identity.Credentials, peer identity.Identity, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	return dial(address, &fresh{func() *tls.Config { return c.ClientOf(peer) }}, peer.Role, false, more...)
}

// PeerIn is who answered a call that was made with grpc.Peer(p).
func PeerIn(p *peer.Peer) (identity.Identity, error) {
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.Identity{}, fmt.Errorf("the connection is not TLS: %w", errs.ErrUnauthenticated)
	}
	return identity.Peer(info.State)
}

func dial(
	address string, secure *fresh, service identity.Role, patient bool, more ...grpc.DialOption,
) (*grpc.ClientConn, error) {
	if address == "" {
		return nil, fmt.Errorf("the %s's address is missing: %w", service, errs.ErrConfig)
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return nil, fmt.Errorf("the %s's address is %q; it needs a host and a port, as in sum.example:7443: %w", service, address, errs.ErrConfig)
	}
	conn, err := grpc.NewClient("dns:///"+address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(gathering{secure}),
		grpc.WithDefaultServiceConfig(fmt.Sprintf(retry, patient)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.WithWriteBufferSize(writeBuffer), experimental.WithBufferPool(pool(service)),
		grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(4 * window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply), grpc.MaxCallSendMsgSize(maxReply))}, more...)...,
	)
	if err != nil {
		return nil, fmt.Errorf("%s at %q: %v: %w", service, address, err, errs.ErrConfig)
	}
	return conn, nil
}
