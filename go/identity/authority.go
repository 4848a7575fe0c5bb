package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Files of an authority in its folder.
const (
	CACertificate = "ca.crt"
	caKey         = "ca.key"
)

// skew is how far a certificate's start lies in the past, for peers whose
// clock is behind.
const skew = 5 * time.Minute

// Authority issues certificates for one domain. It is made for development
// and small deployments; any authority that writes SPIFFE ids will do.
type Authority struct {
	Domain      string
	folder      string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes an authority in an existing or new folder. It refuses a
// folder that has one.
func NewAuthority(folder, domain string, lifetime time.Duration, now time.Time) (*Authority, error) {
	if err := (Identity{Domain: domain, Role: Admin, Name: "x"}).Check(); err != nil {
		return nil, err
	}
	if lifetime <= 0 {
		return nil, fmt.Errorf("a lifetime is positive: %w", errs.ErrArgument)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("making the authority's folder: %v: %w", err, errs.ErrConfig)
	}
	key, serial, err := fresh()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "CryptFlow authority of " + domain},
		NotBefore: now.Add(-skew), NotAfter: now.Add(lifetime),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
		URIs:     []*url.URL{{Scheme: "spiffe", Host: domain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("making the authority's certificate: %v: %w", err, errs.ErrInternal)
	}
	if err := writePair(filepath.Join(folder, CACertificate), filepath.Join(folder, caKey), der, key); err != nil {
		return nil, err
	}
	a, err := OpenAuthority(folder)
	if err != nil {
		return nil, err
	}
	// Services that are told of a deny list do not start without one.
	empty := &DenyList{Domain: domain, Issued: now.UTC().Truncate(time.Second)}
	return a, a.writeDenyList(empty, filepath.Join(folder, DenyListFile))
}

// OpenAuthority reads the authority in a folder.
func OpenAuthority(folder string) (*Authority, error) {
	c, err := ReadCertificate(filepath.Join(folder, CACertificate))
	if err != nil {
		return nil, err
	}
	if !c.IsCA || len(c.URIs) != 1 || c.URIs[0].Scheme != "spiffe" {
		return nil, fmt.Errorf("%s is not an authority of ours: %w", filepath.Join(folder, CACertificate), errs.ErrCertificate)
	}
	path := filepath.Join(folder, caKey)
	der, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || !key.PublicKey.Equal(c.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of its certificate: %w", path, errs.ErrCertificate)
	}
	return &Authority{Domain: c.URIs[0].Host, folder: folder, certificate: c, key: key}, nil
}

// Issue writes ROLE-NAME.crt and ROLE-NAME.key for an identity into folder and
// returns their paths. hosts are the DNS names and addresses that a service
// answers on.
func (a *Authority) Issue(folder string, id Identity, hosts []string, lifetime time.Duration, now time.Time) (certificate, key string, err error) {
	if id.Domain != a.Domain {
		return "", "", fmt.Errorf("the authority is of %s, not of %s: %w", a.Domain, id.Domain, errs.ErrArgument)
	}
	if err := id.Check(); err != nil {
		return "", "", err
	}
	denied, err := a.DenyList()
	if err != nil {
		return "", "", err
	}
	if slices.Contains(denied.Names, id) {
		return "", "", fmt.Errorf("%s is on the deny list, whatever its certificate; choose another name: %w", id,
			errs.ErrArgument)
	}
	end := now.Add(lifetime)
	if lifetime <= 0 || end.After(a.certificate.NotAfter) {
		return "", "", fmt.Errorf("a certificate ends after now and not after its authority, %s: %w", a.certificate.NotAfter.Format(time.DateOnly), errs.ErrArgument)
	}
	own, serial, err := fresh()
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: string(id.Role) + " " + id.Name},
		NotBefore: now.Add(-skew), NotAfter: end, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: id.Domain, Path: "/" + string(id.Role) + "/" + id.Name}},
	}
	if id.Role == Aggregator || id.Role == KMS {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &own.PublicKey, a.key)
	if err != nil {
		return "", "", fmt.Errorf("issuing for %s: %v: %w", id, err, errs.ErrInternal)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", "", fmt.Errorf("making the certificate's folder: %v: %w", err, errs.ErrConfig)
	}
	base := filepath.Join(folder, string(id.Role)+"-"+id.Name)
	return base + ".crt", base + ".key", writePair(base+".crt", base+".key", der, own)
}

func fresh() (*ecdsa.PrivateKey, *big.Int, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("drawing a key: %v: %w", err, errs.ErrInternal)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("drawing a serial number: %v: %w", err, errs.ErrInternal)
	}
	return key, serial, nil
}

// writePair writes a key and its certificate, the key first and readable by
// its owner only. It refuses to replace either.
func writePair(certificate, key string, der []byte, private *ecdsa.PrivateKey) error {
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("writing a key: %v: %w", err, errs.ErrInternal)
	}
	for _, path := range []string{key, certificate} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists; remove it or choose another name: %w", path, errs.ErrArgument)
		}
	}
	if err := writeNew(key, 0o600, &pem.Block{Type: "PRIVATE KEY", Bytes: raw}); err != nil {
		return err
	}
	return writeNew(certificate, 0o644, &pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// writeNew makes a file that is whole or absent: written and synced under
// another name, then linked, which fails when the name is taken.
func writeNew(path string, mode os.FileMode, block *pem.Block) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %v: %w", path, err, errs.ErrConfig)
	}
	defer func() {
		_ = f.Close() // closed already where it matters
		_ = os.Remove(f.Name())
		if err != nil {
			err = fmt.Errorf("writing %s: %v: %w", path, err, errs.ErrConfig)
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := pem.Encode(f, block); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}
