package identity_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
)

// revoked is a deny list in force, and what it takes to change it.
type revoked struct {
	*identity.Denied
	folder, path, memory string
	ca                   *identity.Authority
}

func newRevoked(t *testing.T) *revoked {
	t.Helper()
	folder, ca := authority(t, "hospital.test")
	r := &revoked{folder: folder, path: filepath.Join(t.TempDir(), "deny.list"), memory: filepath.Join(t.TempDir(),
		"seen"), ca: ca}
	r.publish(t)
	var err error
	if r.Denied, err = identity.OpenDenied(r.path, r.memory, filepath.Join(folder, identity.CACertificate)); err != nil {
		t.Fatal(err)
	}
	return r
}

// publish copies the authority's list to the service.
func (r *revoked) publish(t *testing.T) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.folder, identity.DenyListFile))
	if err != nil {
		t.Fatal(err)
	}
	r.write(t, raw)
	return raw
}

// clock keeps the times of files apart.
var clock = time.Now().Add(-time.Hour)

func (r *revoked) write(t *testing.T, raw []byte) {
	t.Helper()
	if err := os.WriteFile(r.path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(time.Second)
	if err := os.Chtimes(r.path, clock, clock); err != nil {
		t.Fatal(err)
	}
}

func (r *revoked) certificate(t *testing.T, role identity.Role, name string) []*x509.Certificate {
	t.Helper()
	crt, _, err := r.ca.Issue(t.TempDir(), identity.Identity{Domain: "hospital.test", Role: role, Name: name}, nil,
		time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := identity.ReadCertificate(crt)
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{c}
}

func TestARevokedCertificateIsRefused(t *testing.T) {
	r := newRevoked(t)
	stolen, again, other := r.certificate(t, identity.Client, "ward-7"), r.certificate(t, identity.Client,
		"ward-7"), r.certificate(t, identity.Client, "ward-8")
	for _, c := range [][]*x509.Certificate{stolen, again, other} {
		if err := r.Check(c); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := r.ca.Revoke(nil, []string{identity.Serial(stolen[0])}, time.Now()); err != nil {
		t.Fatal(err)
	}
	r.publish(t)
	if changed, err := r.Reload(); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if err := r.Check(stolen); !errors.Is(err, errs.ErrCertificate) {
		t.Errorf("by serial: %v", err)
	}
	if err := r.Check(again); err != nil {
		t.Errorf("another certificate of the name: %v", err)
	}
	ward7 := identity.Identity{Domain: "hospital.test", Role: identity.Client, Name: "ward-7"}
	if _, _, err := r.ca.Revoke([]identity.Identity{ward7}, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	r.publish(t)
	if changed, err := r.Reload(); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if err := r.Check(again); !errors.Is(err, errs.ErrCertificate) {
		t.Errorf("by name: %v", err)
	}
	if err := r.Check(other); err != nil {
		t.Errorf("another name: %v", err)
	}
	if _, _, err := r.ca.Issue(t.TempDir(), ward7, nil, time.Hour, time.Now()); !errors.Is(err, errs.ErrArgument) {
		t.Errorf("a revoked name got a certificate: %v", err)
	}
	if changed, err := r.Reload(); err != nil || changed {
		t.Errorf("the same file again: %v, %v", changed, err)
	}
}

// TestABadDenyListChangesNothing: whatever becomes of the file, the last good
// list stays in force, the fault is said once, and a start refuses it.
func TestABadDenyListChangesNothing(t *testing.T) {
	r := newRevoked(t)
	old := r.publish(t)
	victim := r.certificate(t, identity.Client, "ward-7")
	if _, _, err := r.ca.Revoke(nil, []string{identity.Serial(victim[0])}, time.Now()); err != nil {
		t.Fatal(err)
	}
	good := r.publish(t)
	if _, err := r.Reload(); err != nil {
		t.Fatal(err)
	}
	_, other := authority(t, "hospital.test")
	_, foreign, err := other.Revoke(nil, []string{"abc"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	forged, err := os.ReadFile(foreign)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string][]byte{
		"older than the one in force": old, "empty": {}, "another authority's": forged,
		"longer": append(bytes.Clone(good), '\n'), "with a changed number": bytes.Replace(good, []byte("number 1"),
			[]byte("number 9"), 1),
	}
	for n := 1; n < len(good); n += 7 {
		cases[fmt.Sprintf("cut to %d bytes", n)] = good[:n]
	}
	for name, raw := range cases {
		r.write(t, raw)
		if changed, err := r.Reload(); err == nil || changed {
			t.Errorf("%s: taken", name)
		}
		if _, err := r.Reload(); err != nil {
			t.Errorf("%s: said twice: %v", name, err)
		}
		if err := r.Check(victim); !errors.Is(err, errs.ErrCertificate) {
			t.Errorf("%s: the revoked certificate is let in again", name)
		}
		if _, err := identity.OpenDenied(r.path, r.memory, filepath.Join(r.folder, identity.CACertificate)); err == nil {
			t.Errorf("%s: a service starts with it", name)
		}
	}
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reload(); err == nil {
		t.Error("a missing list was not noticed")
	}
	if _, err := r.Reload(); err != nil {
		t.Error("a missing list was said twice:", err)
	}
	if err := r.Check(victim); !errors.Is(err, errs.ErrCertificate) {
		t.Error("the list was forgotten with its file")
	}
	if _, err := identity.OpenDenied(r.path, r.memory, filepath.Join(r.folder,
		identity.CACertificate)); !errors.Is(err, errs.ErrConfig) {
		t.Errorf("a service starts without the list that it was told of: %v", err)
	}
	r.write(t, good)
	if _, err := r.Reload(); err != nil {
		t.Errorf("the good list again: %v", err)
	}
	// The number was used twice: nobody can say which list is newer.
	if err := os.Remove(filepath.Join(r.folder, identity.DenyListFile)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.ca.Revoke(nil, []string{"abc"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	r.publish(t)
	if changed, err := r.Reload(); err == nil || changed {
		t.Error("another list with the same number was taken")
	}
}

func TestACertificateIsRenewedInPlace(t *testing.T) {
	folder, ca := authority(t, "hospital.test")
	id := identity.Identity{Domain: "hospital.test", Role: identity.KMS, Name: "kms"}
	crt, key, err := ca.Issue(t.TempDir(), id, []string{"localhost"}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := identity.Load(crt, key, filepath.Join(folder, identity.CACertificate), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	first := c.Ends()
	put := func(as identity.Identity, life time.Duration, files ...int) {
		t.Helper()
		newCrt, newKey, err := ca.Issue(t.TempDir(), as, []string{"localhost"}, life, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		clock = clock.Add(time.Second)
		for _, i := range files {
			from, to := [2]string{newCrt, newKey}[i], [2]string{crt, key}[i]
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(to, clock, clock); err != nil {
				t.Fatal(err)
			}
		}
	}
	if changed, err := c.Renew(time.Now()); err != nil || changed {
		t.Fatal("nothing was renewed:", changed, err)
	}
	// A key without its certificate yet, or somebody else's pair, changes nothing.
	put(id, 2*time.Hour, 1)
	if changed, err := c.Renew(time.Now()); err == nil || changed || !c.Ends().Equal(first) {
		t.Fatal("half a pair was taken:", err)
	}
	put(identity.Identity{Domain: "hospital.test", Role: identity.KMS, Name: "another"}, 2*time.Hour, 0, 1)
	if changed, err := c.Renew(time.Now()); err == nil || changed || !c.Ends().Equal(first) {
		t.Fatal("another identity's pair was taken:", err)
	}
	if _, err := c.Renew(time.Now()); err != nil {
		t.Fatal("said twice:", err)
	}
	put(id, 3*time.Hour, 0, 1)
	if changed, err := c.Renew(time.Now()); err != nil || !changed || !c.Ends().After(first) {
		t.Fatal("the renewed pair was not taken:", changed, err)
	}
	got, err := c.Server().GetCertificate(nil)
	if err != nil || !got.Leaf.NotAfter.Equal(c.Ends()) {
		t.Fatal("new connections do not get it:", err)
	}
}
