package envelope_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
)

func key(t *testing.T) *envelope.Key {
	t.Helper()
	k, err := envelope.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAnEnvelopeOpensForItsReceiverPurposeAndContextOnly(t *testing.T) {
	k, other := key(t), key(t)
	message, context := []byte("thirty-two bytes of a key's seed"), []byte("round 3 of ward-7")
	sealed, err := envelope.Seal(k.Public(), envelope.Deposit, context, message)
	if err != nil {
		t.Fatal(err)
	}
	if len(sealed) != len(message)+envelope.Overhead {
		t.Fatalf("%d bytes", len(sealed))
	}
	got, err := k.Open(envelope.Deposit, context, sealed)
	if err != nil || !bytes.Equal(got, message) {
		t.Fatalf("%q, %v", got, err)
	}
	refused := func(name string, k *envelope.Key, purpose string, context, sealed []byte) {
		t.Helper()
		if _, err := k.Open(purpose, context, sealed); !errors.Is(err, errs.ErrCanonical) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused("another key", other, envelope.Deposit, context, sealed)
	refused("another purpose", k, envelope.Release, context, sealed)
	refused("another context", k, envelope.Deposit, []byte("round 4 of ward-7"), sealed)
	for _, n := range []int{0, 1, envelope.Overhead - 1, len(sealed) - 1} {
		refused("cut", k, envelope.Deposit, context, sealed[:n])
	}
	for i := 0; i < len(sealed); i += 97 {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		refused(fmt.Sprintf("byte %d changed", i), k, envelope.Deposit, context, changed)
	}
}

func TestKeysSurviveSerialisationAndDoNotPrint(t *testing.T) {
	k := key(t)
	secret, err := k.Secret()
	if err != nil {
		t.Fatal(err)
	}
	again, err := envelope.ParseKey(secret)
	if err != nil || !bytes.Equal(again.Public(), k.Public()) {
		t.Fatal("another key came back", err)
	}
	if len(k.Public()) != envelope.PublicKeySize {
		t.Fatal(len(k.Public()))
	}
	if s := fmt.Sprint(k) + fmt.Sprintf("%v %s", k, k); bytes.Contains([]byte(s), secret[:8]) {
		t.Fatal("a key printed itself")
	}
	for _, bad := range [][]byte{nil, secret[1:], make([]byte, envelope.PublicKeySize+1)} {
		if _, err := envelope.Seal(bad, envelope.Deposit, nil, nil); !errors.Is(err, errs.ErrCanonical) {
			t.Errorf("sealed to %d bytes: %v", len(bad), err)
		}
	}
}
