package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
)

// maxPEM bounds a certificate or key file.
const maxPEM = 1 << 20

// Credentials are one party's certificate, key and authority.
type Credentials struct {
	Self    Identity
	Expires time.Time // of the certificate that was loaded first
	current atomic.Pointer[tls.Certificate]
	// previous is the one before the last renewal: connections may still show it.
	previous atomic.Pointer[tls.Certificate]
	pool     *x509.CertPool
	denied   *Denied // nil: nobody is

	mu     sync.Mutex // of a renewal
	files  [3]string
	stamps [2]stamp
}

// Deny refuses peers that a deny list names, from now on. It is called before
// the credentials are used.
func (c *Credentials) Deny(d *Denied) { c.denied = d }

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
	pair.Leaf = c
	out := &Credentials{Self: self, Expires: c.NotAfter, pool: pool, files: [3]string{certificate, key, authority}}
	out.current.Store(&pair)
	return out, nil
}

// Renew reads certificate and key again when their files have changed. New
// connections use them at once. After an error the last good ones stay in use.
func (c *Credentials) Renew(now time.Time) (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var stamps [2]stamp
	for i, path := range c.files[:2] {
		if stamps[i], err = stampOf(path); err != nil {
			stamps[i] = stamp{} // it is said once
		}
	}
	if stamps == c.stamps {
		return false, nil
	}
	c.stamps = stamps
	next, err := Load(c.files[0], c.files[1], c.files[2], now)
	if err == nil && next.Self != c.Self {
		err = fmt.Errorf("%s is the certificate of %s, not of %s: %w", c.files[0], next.Self, c.Self, errs.ErrCertificate)
	}
	if err != nil {
		return false, fmt.Errorf("the renewed certificate cannot be used, the last one stays in use: %w", err)
	}
	pair := next.current.Load()
	before := c.current.Load()
	if changed = !pair.Leaf.Equal(before.Leaf); changed {
		c.previous.Store(before)
	}
	c.current.Store(pair)
	return changed, nil
}

// Ends is when the certificate in use ends.
func (c *Credentials) Ends() time.Time { return c.current.Load().Leaf.NotAfter }

// Warning says when the certificate ends, from a fifth of a month before; it
// is empty while there is time.
func (c *Credentials) Warning(now time.Time) string {
	ends := c.Ends()
	left := ends.Sub(now)
	if left > 6*24*time.Hour {
		return ""
	}
	return fmt.Sprintf("the certificate of %s expires in %.0f hours, on %s", c.Self, left.Hours(),
		ends.Format(time.RFC3339))
}

// Server returns the configuration of a service: TLS 1.3, certificates of its
// own authority and domain demanded from every caller.
func (c *Credentials) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
		ClientAuth:     tls.RequireAndVerifyClientCert, ClientCAs: c.pool,
		VerifyConnection: func(s tls.ConnectionState) error { return c.check(s, Roles()...) },
	}
}

// Client returns the configuration for calling a service of the given role:
// a peer of any other role is refused during the handshake. It has the
// certificate of now: ask again for every connection.
func (c *Credentials) Client(service Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
		Certificates:     []tls.Certificate{*c.current.Load()},
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
			return c.denied.Check(s.VerifiedChains[0])
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
