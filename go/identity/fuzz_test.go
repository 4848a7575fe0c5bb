package identity_test

import (
	"errors"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
)

// FuzzParse: an identity has one text, and it is safe as a path.
func FuzzParse(f *testing.F) {
	f.Add("spiffe://hospitals.example/client/clinic-3")
	f.Add("spiffe://hospitals.example/client/../kms")
	f.Add("spiffe://hospitals.example/CLIENT/a")
	f.Add("spiffe://a/client/b/")
	f.Add("spiffe://a:1/client/b?c#d")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		i, err := identity.Parse(s)
		if err != nil {
			if !errors.Is(err, errs.ErrCertificate) {
				t.Fatal(err)
			}
			return
		}
		if i.String() != s || i.Check() != nil {
			t.Fatalf("%q is read as %q", s, i)
		}
	})
}
