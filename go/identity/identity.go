// Package identity says who is who: roles and names in certificates, a
// development authority that issues them, the TLS configurations that demand
// them, and the table of who may call what.
//
// # Security
//
// Every connection is mutual TLS 1.3. The caller's role and name are the one
// SPIFFE id of its certificate, spiffe://DOMAIN/ROLE/NAME; a certificate with
// none, two, or one of another domain is refused during the handshake. What a
// table does not allow is denied.
package identity

import (
	"crypto/x509"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/cryptflow/cryptflow/go/errs"
)

// Role is what a certificate's holder is to the system. The zero value is
// invalid.
type Role string

// Roles.
const (
	Client     Role = "client"
	Aggregator Role = "aggregator"
	KMS        Role = "kms"
	Admin      Role = "admin"
)

// Roles returns every role.
func Roles() []Role { return []Role{Client, Aggregator, KMS, Admin} }

// ParseRole returns the role called s.
func ParseRole(s string) (Role, error) {
	if r := Role(s); slices.Contains(Roles(), r) {
		return r, nil
	}
	return "", fmt.Errorf("no role %q; there are client, aggregator, kms, admin: %w", s, errs.ErrArgument)
}

// Identity is a role and a name within a trust domain.
type Identity struct {
	Domain string
	Role   Role
	Name   string
}

// String is the SPIFFE id.
func (i Identity) String() string {
	return "spiffe://" + i.Domain + "/" + string(i.Role) + "/" + i.Name
}

var name = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)

// Check refuses what cannot stand in a certificate.
func (i Identity) Check() error {
	if _, err := spiffeid.TrustDomainFromString(i.Domain); err != nil || strings.Contains(i.Domain, "/") {
		return fmt.Errorf("domain %q: use a-z, 0-9, dot, dash: %w", i.Domain, errs.ErrArgument)
	}
	if _, err := ParseRole(string(i.Role)); err != nil {
		return err
	}
	if !name.MatchString(i.Name) {
		return fmt.Errorf("name %q: use a-z, 0-9, dot, dash, underscore, 64 at most: %w", i.Name, errs.ErrArgument)
	}
	return nil
}

// Parse is the strict inverse of String.
func Parse(s string) (Identity, error) {
	id, err := spiffeid.FromString(s)
	if err != nil {
		return Identity{}, fmt.Errorf("%q is not a SPIFFE id: %w", s, errs.ErrCertificate)
	}
	parts := strings.Split(strings.TrimPrefix(id.Path(), "/"), "/")
	if len(parts) != 2 {
		return Identity{}, fmt.Errorf("%q is not spiffe://DOMAIN/ROLE/NAME: %w", s, errs.ErrCertificate)
	}
	i := Identity{Domain: id.TrustDomain().Name(), Role: Role(parts[0]), Name: parts[1]}
	if err := i.Check(); err != nil || i.String() != s {
		return Identity{}, fmt.Errorf("%q is not spiffe://DOMAIN/ROLE/NAME: %w", s, errs.ErrCertificate)
	}
	return i, nil
}

// Of returns the identity of a certificate. It does not verify the chain.
func Of(c *x509.Certificate) (Identity, error) {
	if len(c.URIs) != 1 {
		return Identity{}, fmt.Errorf("%d URIs in the certificate, want one SPIFFE id: %w", len(c.URIs), errs.ErrCertificate)
	}
	return Parse(c.URIs[0].String())
}

// Table says which roles may call which methods. What it does not list is
// denied.
type Table map[string][]Role

// Allow returns ErrDenied unless the table lists the caller's role.
func (t Table) Allow(caller Identity, method string) error {
	if slices.Contains(t[method], caller.Role) {
		return nil
	}
	return fmt.Errorf("%s may not call %s: %w", caller, method, errs.ErrDenied)
}
