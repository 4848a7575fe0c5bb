package identity_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
)

const day = 24 * time.Hour

func authority(t *testing.T, domain string) (string, *identity.Authority) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "ca")
	a, err := identity.NewAuthority(folder, domain, 365*day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return folder, a
}

// credentials issues and loads; at is the time of issue.
func credentials(t *testing.T, folder string, a *identity.Authority, role identity.Role, at time.Time, lifetime time.Duration) (*identity.Credentials, error) {
	t.Helper()
	crt, key, err := a.Issue(t.TempDir(), identity.Identity{Domain: a.Domain, Role: role, Name: "one"}, []string{"127.0.0.1", "localhost"}, lifetime, at)
	if err != nil {
		t.Fatal(err)
	}
	return identity.Load(crt, key, filepath.Join(folder, identity.CACertificate), at)
}

func must(t *testing.T, folder string, a *identity.Authority, role identity.Role) *identity.Credentials {
	t.Helper()
	c, err := credentials(t, folder, a, role, time.Now(), 30*day)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange connects once and returns both sides' errors.
func exchange(t *testing.T, server *tls.Config, dial func(address string) (net.Conn, error)) (serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		s := tls.Server(c, server)
		if err := s.Handshake(); err != nil {
			done <- err
			return
		}
		_, err = s.Write([]byte("hello"))
		done <- err
	}()
	c, err := dial(l.Addr().String())
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 5))
		c.Close()
	}
	return <-done, err
}

func withTLS(config *tls.Config) func(string) (net.Conn, error) {
	return func(address string) (net.Conn, error) { return tls.Dial("tcp", address, config) }
}

func TestOnlyTheRightPeersConnect(t *testing.T) {
	folder, a := authority(t, "hospital.test")
	otherFolder, other := authority(t, "hospital.test")
	foreignFolder, foreign := authority(t, "elsewhere.test")
	server := must(t, folder, a, identity.Aggregator).Server()
	client := must(t, folder, a, identity.Client)
	old := client.Client(identity.Aggregator)
	old.MaxVersion = tls.VersionTLS12
	old.MinVersion = tls.VersionTLS12
	bare := client.Client(identity.Aggregator)
	bare.Certificates = nil
	late := must(t, folder, a, identity.Aggregator).Server()
	late.Time = func() time.Time { return time.Now().Add(31 * day) }
	for _, x := range []struct {
		name   string
		server *tls.Config
		dial   func(string) (net.Conn, error)
		ok     bool
	}{
		{"client", server, withTLS(client.Client(identity.Aggregator)), true},
		{"admin", server, withTLS(must(t, folder, a, identity.Admin).Client(identity.Aggregator)), true},
		{"another authority of the same name", server, withTLS(must(t, otherFolder, other, identity.Client).Client(identity.Aggregator)), false},
		{"another domain", server, withTLS(must(t, foreignFolder, foreign, identity.Client).Client(identity.Aggregator)), false},
		{"no certificate", server, withTLS(bare), false},
		{"TLS 1.2", server, withTLS(old), false},
		{"expired", late, withTLS(client.Client(identity.Aggregator)), false},
		{"service of another role", server, withTLS(client.Client(identity.KMS)), false},
		{"client posing as a service", must(t, folder, a, identity.Client).Server(), withTLS(client.Client(identity.Aggregator)), false},
		{"plain TCP", server, func(address string) (net.Conn, error) {
			c, err := net.Dial("tcp", address)
			if err == nil {
				_, err = c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			}
			return c, err
		}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			serverErr, clientErr := exchange(t, x.server, x.dial)
			if x.ok != (serverErr == nil && clientErr == nil) {
				t.Fatalf("server: %v; client: %v", serverErr, clientErr)
			}
			if !x.ok && clientErr == nil {
				t.Fatal("the client read data from a refused connection")
			}
		})
	}
}

func TestIdentitiesRoundTripAndNothingElseParses(t *testing.T) {
	for _, r := range identity.Roles() {
		want := identity.Identity{Domain: "a.test", Role: r, Name: "site-1"}
		if got, err := identity.Parse(want.String()); err != nil || got != want {
			t.Fatalf("%s: %v, %v", want, got, err)
		}
	}
	for _, s := range []string{
		"", "spiffe://a.test", "spiffe://a.test/client", "spiffe://a.test/client/", "spiffe://a.test/client/x/y",
		"spiffe://a.test/root/x", "spiffe://a.test/client/X", "spiffe://a.test//client/x", "https://a.test/client/x",
		"spiffe://a.test/client/..", "spiffe://A.test/client/x", "spiffe://a.test/client/x?y", "spiffe:///client/x",
		"spiffe://a.test/client/" + strings.Repeat("x", 65),
	} {
		if got, err := identity.Parse(s); !errors.Is(err, errs.ErrCertificate) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}

func TestTheTableDeniesByDefault(t *testing.T) {
	table := identity.Table{"/Put": {identity.Client}, "/Watch": {identity.Client, identity.Admin}}
	allowed := map[string]bool{"client/Put": true, "client/Watch": true, "admin/Watch": true}
	for _, role := range append(identity.Roles(), "") {
		for _, method := range []string{"/Put", "/Watch", "/Unknown", ""} {
			err := table.Allow(identity.Identity{Domain: "a.test", Role: role, Name: "x"}, method)
			if want := allowed[string(role)+method]; want != (err == nil) || (err != nil && !errors.Is(err, errs.ErrDenied)) {
				t.Errorf("%s on %s: %v", role, method, err)
			}
		}
	}
}

func TestKeysAreTheOwnersOnlyAndNeverReplaced(t *testing.T) {
	folder, a := authority(t, "a.test")
	id := identity.Identity{Domain: "a.test", Role: identity.Client, Name: "x"}
	crt, key, err := a.Issue(folder, id, nil, day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{key, filepath.Join(folder, "ca.key")} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	before, err := os.ReadFile(crt)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Issue(folder, id, nil, day, time.Now()); !errors.Is(err, errs.ErrArgument) {
		t.Fatalf("issued twice: %v", err)
	}
	if _, err := identity.NewAuthority(folder, "a.test", day, time.Now()); !errors.Is(err, errs.ErrArgument) {
		t.Fatalf("authority replaced: %v", err)
	}
	if after, err := os.ReadFile(crt); err != nil || string(after) != string(before) {
		t.Fatal("a refused issue changed the certificate")
	}
	left, err := filepath.Glob(filepath.Join(folder, ".new-*"))
	if err != nil || len(left) != 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	folder, a := authority(t, "a.test")
	otherFolder, _ := authority(t, "a.test")
	dir := t.TempDir()
	crt, key, err := a.Issue(dir, identity.Identity{Domain: "a.test", Role: identity.Client, Name: "x"}, nil, 10*day, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(folder, identity.CACertificate)
	for _, x := range []struct {
		name, crt, key, root string
		after                time.Duration
		words                string
	}{
		{"expired", crt, key, root, 11 * day, "expired on"},
		{"clock behind", crt, key, root, -day, "clock"},
		{"another authority", crt, key, filepath.Join(otherFolder, identity.CACertificate), 0, "was not issued by"},
		{"another key", crt, filepath.Join(folder, "ca.key"), root, 0, "is not the key of"},
		{"missing key", crt, filepath.Join(dir, "none.key"), root, 0, "none.key: no such file"},
		{"missing", filepath.Join(dir, "none.crt"), key, root, 0, "reading"},
		{"key for certificate", key, key, root, 0, "no PEM block"},
		{"authority as certificate", root, key, root, 0, "not spiffe://DOMAIN/ROLE/NAME"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if _, err := identity.Load(x.crt, x.key, x.root, time.Now().Add(x.after)); err == nil || !strings.Contains(err.Error(), x.words) {
				t.Fatalf("%v, want %q", err, x.words)
			}
		})
	}
}

func TestWarningComesBeforeExpiry(t *testing.T) {
	folder, a := authority(t, "a.test")
	c := must(t, folder, a, identity.KMS)
	if w := c.Warning(time.Now()); w != "" {
		t.Fatalf("thirty days before: %q", w)
	}
	if w := c.Warning(time.Now().Add(25 * day)); !strings.Contains(w, "spiffe://a.test/kms/one") {
		t.Fatalf("five days before: %q", w)
	}
}

func TestCertificatesDoNotOutliveTheirAuthority(t *testing.T) {
	_, a := authority(t, "a.test")
	for _, lifetime := range []time.Duration{0, -day, 400 * day} {
		if _, _, err := a.Issue(t.TempDir(), identity.Identity{Domain: "a.test", Role: identity.Client, Name: "x"}, nil, lifetime, time.Now()); !errors.Is(err, errs.ErrArgument) {
			t.Fatalf("%v: %v", lifetime, err)
		}
	}
}
