package identity

import (
	"crypto/tls"
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
)

// ClientOf returns the configuration for calling one peer: another one of the
// same role is refused during the handshake. A service may name other addresses
// of its own; it cannot send its callers elsewhere.
func (c *Credentials) ClientOf(peer Identity) *tls.Config {
	config := c.Client(peer.Role)
	verify := config.VerifyConnection
	config.VerifyConnection = func(s tls.ConnectionState) error {
		if err := verify(s); err != nil {
			return err
		}
		if got, err := Peer(s); err != nil || got != peer {
			return fmt.Errorf("%s answered where %s was expected: %w", got, peer, errs.ErrCertificate)
		}
		return nil
	}
	return config
}
