package rpc

import (
	"log/slog"
	"net"

	"google.golang.org/grpc/credentials"
)

// noted logs the handshakes that a service refuses; gRPC itself says nothing
// of them.
type noted struct {
	credentials.TransportCredentials
	log *slog.Logger
}

func (n noted) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := n.TransportCredentials.ServerHandshake(c)
	if err != nil {
		n.log.Warn("connection refused", "peer", c.RemoteAddr().String(), "error", err.Error())
	}
	return secured, info, err
}

func (n noted) Clone() credentials.TransportCredentials {
	return noted{n.TransportCredentials.Clone(), n.log}
}
