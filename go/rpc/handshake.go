package rpc

import (
	"fmt"
	"log/slog"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/cryptflow/cryptflow/go/errs"
)

// noted logs the handshakes that a service refuses, of which gRPC itself says
// nothing, and takes the others into the crowd.
type noted struct {
	credentials.TransportCredentials
	log   *slog.Logger
	crowd *crowd
}

func (n noted) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	h := n.crowd.knock(c)
	secured, info, err := n.TransportCredentials.ServerHandshake(c)
	n.crowd.known(h)
	if err == nil {
		secured, info, err = n.admit(secured, info)
	}
	if err != nil {
		n.log.Warn("connection refused", "peer", c.RemoteAddr().String(), "error", err.Error())
	}
	return secured, info, err
}

func (n noted) admit(secured net.Conn, info credentials.AuthInfo) (net.Conn, credentials.AuthInfo, error) {
	of, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, fmt.Errorf("the connection is not TLS: %w", errs.ErrUnauthenticated)
	}
	l, err := n.crowd.admit(secured, of)
	if err != nil {
		return nil, nil, err
	}
	return l, linked{of, l}, nil
}

func (n noted) Clone() credentials.TransportCredentials {
	return noted{n.TransportCredentials.Clone(), n.log, n.crowd}
}
