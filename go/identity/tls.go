package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
)

// maxPEM bounds a certificate or key file.
const maxPEM = 1 << 20

// Credentials are one party's certificate, key and authority.
type Credentials struct {
	Self        Identity
	Expires     time.Time
	certificate tls.Certificate
	pool        *x509.CertPool
}

// Load reads and checks credentials. An expired certificate is
// ErrCertificate, with what to do.
func Load(certificate, key, authority string, now time.Time) (*Credentials, error) {
	c, err := ReadCertificate(certificate)
	if err != nil {
		return nil, err
	}
	self, err := Of(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certificate, err)
	}
	switch {
	case now.After(c.NotAfter):
		return nil, fmt.Errorf("%s expired on %s; issue a new one (cryptflow ca issue): %w", certificate, c.NotAfter.Format(time.DateOnly), errs.ErrCertificate)
	case now.Before(c.NotBefore):
		return nil, fmt.Errorf("%s is not valid before %s; is this machine's clock right?: %w", certificate, c.NotBefore.Format(time.RFC3339), errs.ErrCertificate)
	}
	root, err := ReadCertificate(authority)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, fmt.Errorf("%s was not issued by %s: %w", certificate, authority, errs.ErrCertificate)
	}
	if _, err := os.Stat(key); err != nil {
		return nil, fmt.Errorf("reading %s: %v: %w", key, reason(err), errs.ErrConfig)
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("%s is not the key of %s: %w", key, certificate, errs.ErrCertificate)
	}
	return &Credentials{Self: self, Expires: c.NotAfter, certificate: pair, pool: pool}, nil
}

// Warning says when the certificate ends, from a fifth of a month before; it
// is empty while there is time.
func (c *Credentials) Warning(now time.Time) string {
	left := c.Expires.Sub(now)
	if left > 6*24*time.Hour {
		return ""
	}
	return fmt.Sprintf("the certificate of %s expires in %.0f hours, on %s", c.Self, left.Hours(), c.Expires.Format(time.RFC3339))
}

// Server returns the configuration of a service: TLS 1.3, certificates of its
// own authority and domain demanded from every caller.
func (c *Credentials) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true, Certificates: []tls.Certificate{c.certificate},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.pool,
		VerifyConnection: func(s tls.ConnectionState) error { return c.check(s, Roles()...) },
	}
}

// Client returns the configuration for calling a service of the given role:
// a peer of any other role is refused during the handshake.
func (c *Credentials) Client(service Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true, Certificates: []tls.Certificate{c.certificate},
		RootCAs:          c.pool,
		VerifyConnection: func(s tls.ConnectionState) error { return c.check(s, service) },
	}
}

// check refuses peers of another domain or role.
func (c *Credentials) check(s tls.ConnectionState, roles ...Role) error {
	peer, err := Peer(s)
	if err != nil {
		return err
	}
	if peer.Domain != c.Self.Domain {
		return fmt.Errorf("%s is of another domain than %s: %w", peer, c.Self.Domain, errs.ErrCertificate)
	}
	for _, r := range roles {
		if peer.Role == r {
			return nil
		}
	}
	return fmt.Errorf("%s answered where %v was expected: %w", peer, roles, errs.ErrCertificate)
}

// Peer is the identity of the other end of a verified connection.
func Peer(s tls.ConnectionState) (Identity, error) {
	if len(s.VerifiedChains) == 0 || len(s.PeerCertificates) == 0 {
		return Identity{}, fmt.Errorf("the peer: %w", errs.ErrUnauthenticated)
	}
	return Of(s.PeerCertificates[0])
}

// ReadCertificate reads one certificate from a PEM file.
func ReadCertificate(path string) (*x509.Certificate, error) {
	der, err := readPEM(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s holds no certificate: %w", path, errs.ErrCertificate)
	}
	return c, nil
}

// reason is why a file cannot be used, without its name.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func readPEM(path, kind string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %v: %w", path, reason(err), errs.ErrConfig)
	}
	if info.Size() > maxPEM {
		return nil, fmt.Errorf("%s is larger than %d bytes: %w", path, maxPEM, errs.ErrConfig)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %v: %w", path, reason(err), errs.ErrConfig)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s holds no PEM block %q: %w", path, kind, errs.ErrConfig)
	}
	return block.Bytes, nil
}
