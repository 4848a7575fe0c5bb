package envelope_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
)

// FuzzOpen: nothing opens but what was sealed to the key, for the purpose and
// context for which it was.
func FuzzOpen(f *testing.F) {
	k, err := envelope.ParseKey(bytes.Repeat([]byte{9}, 32))
	if err != nil {
		f.Fatal(err)
	}
	message, context := []byte("a seed"), []byte("round 3")
	good, err := envelope.Seal(k.Public(), envelope.Deposit, context, message)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, envelope.Deposit, context)
	f.Add(good, envelope.Release, context)
	f.Add(good[:envelope.Overhead-1], envelope.Deposit, context)
	f.Add(make([]byte, envelope.Overhead), envelope.Deposit, []byte{})
	f.Add([]byte{}, "", []byte{})
	f.Fuzz(func(t *testing.T, sealed []byte, purpose string, about []byte) {
		got, err := k.Open(purpose, about, sealed)
		if err != nil {
			if !errors.Is(err, errs.ErrCanonical) || len(got) != 0 {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			return
		}
		// Another process of the fuzzer sealed another envelope: what it says
		// is the same.
		if len(sealed) != len(good) || purpose != envelope.Deposit || !bytes.Equal(about, context) || !bytes.Equal(got, message) {
			t.Fatal("an envelope that nobody sealed")
		}
	})
}

// FuzzKeys: public and private keys are taken in one form.
func FuzzKeys(f *testing.F) {
	k, err := envelope.ParseKey(bytes.Repeat([]byte{9}, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.Public())
	f.Add(k.Public()[1:])
	f.Add(bytes.Repeat([]byte{0xff}, envelope.PublicKeySize))
	f.Add(bytes.Repeat([]byte{9}, 32))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := envelope.CheckPublic(b); err == nil {
			if sealed, err := envelope.Seal(b, envelope.Deposit, nil, []byte("x")); err != nil || len(sealed) != 1+envelope.Overhead {
				t.Fatalf("a public key that cannot be sealed to: %v", err)
			}
		} else if !errors.Is(err, errs.ErrCanonical) {
			t.Fatal(err)
		}
		k, err := envelope.ParseKey(b)
		if err != nil {
			if !errors.Is(err, errs.ErrCanonical) {
				t.Fatal(err)
			}
			return
		}
		if again, err := k.Secret(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("two byte strings for one key: %v", err)
		}
	})
}
