package attacks

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

var update = flag.Bool("update", false, "write docs/reference/fields.md anew")

// signers are the services' own keys: whoever changes a field here is not a
// stranger but the signer, who signs what it changed.
type signers struct{ aggregator, kms ed25519.PrivateKey }

func (w *world) signers(t *testing.T) signers {
	t.Helper()
	key := func(name string) ed25519.PrivateKey {
		k, err := identity.OpenSigning(filepath.Join(w.Folder, name, "data", "signing.pem"), false)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	return signers{key("aggregator"), key("kms")}
}

// changes are the ways to change one field of an object, by the field's name.
func changes(object any) map[string]func(any) {
	out := map[string]func(any){}
	kind := reflect.TypeOf(object).Elem()
	for i := range kind.NumField() {
		name := kind.Field(i).Name
		if kind.Field(i).Type == reflect.TypeFor[[]task.Entry]() {
			entry := reflect.TypeFor[task.Entry]()
			for j := range entry.NumField() {
				out[name+"."+entry.Field(j).Name] = func(x any) {
					bend(reflect.ValueOf(x).Elem().Field(i).Index(0).Field(j))
				}
			}
			continue
		}
		out[name] = func(x any) { bend(reflect.ValueOf(x).Elem().Field(i)) }
	}
	return out
}

// bend changes a value to another that has its form.
func bend(v reflect.Value) {
	switch v.Kind() {
	case reflect.Array:
		v.Index(0).SetUint(v.Index(0).Uint() ^ 1)
	case reflect.Uint8: // an enumeration: 1 and 2
		v.SetUint(3 - v.Uint())
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(v.Uint() + 1)
	case reflect.String:
		v.SetString(v.String() + "0")
	case reflect.Slice:
		switch s := v.Interface().(type) {
		case []byte:
			s = bytes.Clone(s)
			s[0] ^= 1
			v.SetBytes(s)
		case []int32:
			s = append([]int32{}, s...)
			s[0] += 100
			v.Set(reflect.ValueOf(s))
		}
	default:
		panic("a field of kind " + v.Kind().String() + " is new: say here how it is changed")
	}
}

// resigned is a signed object with one field changed, signed again by its signer.
func resigned[T any](t *testing.T, in *pb.Signed, key ed25519.PrivateKey, parse func([]byte) (*T, error), change func(any)) {
	t.Helper()
	x, err := parse(in.Object)
	if err != nil {
		t.Errorf("the honest object: %v", err)
		return
	}
	change(x)
	s := task.Sign(any(x).(task.Object), key)
	in.Object, in.Signature = s.Bytes, s.Signature
}

// field is one row of the table: what is changed, and where on the client's way.
type field struct {
	object, name string
	by           string // who refuses
	bend         func(method string, in, out any, s signers)
}

// fields are every field of every object that reaches a client or the key service.
func fields(t *testing.T) (all []field) {
	add := func(object, by string, names map[string]func(any), bend func(change func(any)) func(string, any, any, signers)) {
		for name, change := range names {
			all = append(all, field{object, name, by, bend(change)})
		}
	}
	add("specification", "client", changes(&task.RoundSpec{}), func(change func(any)) func(string, any, any, signers) {
		return func(method string, _, out any, s signers) {
			if reply, ok := out.(*pb.SpecReply); ok {
				resigned(t, reply.Spec, s.kms, task.ParseRoundSpec, change)
			}
		}
	})
	add("announcement, as its receipt", "client", changes(&task.Announcement{}), func(change func(any)) func(string, any, any, signers) {
		return func(method string, _, out any, s signers) {
			if method == "Announce" {
				resigned(t, out.(*pb.Signed), s.kms, task.ParseAnnouncement, change)
			}
		}
	})
	add("deposit", "key service", changes(&task.Deposit{}), func(change func(any)) func(string, any, any, signers) {
		return func(method string, in, _ any, s signers) {
			if d, ok := in.(*pb.DepositRequest); ok && method == "before Deposit" {
				x, err := task.ParseDeposit(d.Deposit)
				if err != nil {
					t.Error(err)
					return
				}
				change(x)
				d.Deposit = x.Canonical()
			}
		}
	})
	add("deposit, as its receipt", "client", changes(&task.Deposit{}), func(change func(any)) func(string, any, any, signers) {
		return func(method string, _, out any, s signers) {
			if method == "Deposit" {
				resigned(t, out.(*pb.Signed), s.kms, task.ParseDeposit, change)
			}
		}
	})
	add("receipt", "client", changes(&task.Receipt{}), func(change func(any)) func(string, any, any, signers) {
		return func(method string, _, out any, s signers) {
			if method == "Commit" {
				resigned(t, out.(*pb.Signed), s.aggregator, task.ParseReceipt, change)
			}
		}
	})
	add("manifest", "client", changes(&task.Manifest{}), func(change func(any)) func(string, any, any, signers) {
		return func(_ string, _, out any, s signers) {
			if reply, ok := out.(*pb.ReleaseReply); ok {
				resigned(t, reply.Manifest, s.aggregator, task.ParseManifest, change)
			}
		}
	})
	add("decision", "client", changes(&task.Decision{}), func(change func(any)) func(string, any, any, signers) {
		return func(_ string, _, out any, s signers) {
			if reply, ok := out.(*pb.ReleaseReply); ok {
				resigned(t, reply.Decision, s.kms, task.ParseDecision, change)
			}
		}
	})
	add("result", "client", changes(&task.Result{}), func(change func(any)) func(string, any, any, signers) {
		return func(_ string, _, out any, s signers) {
			if reply, ok := out.(*pb.ResultReply); ok {
				resigned(t, reply.Result, s.aggregator, task.ParseResult, change)
			}
		}
	})
	add("verdict", "client", changes(&task.Verdict{}), func(change func(any)) func(string, any, any, signers) {
		return func(_ string, _, out any, s signers) {
			if reply, ok := out.(*pb.ReportReply); ok && reply.Verdict != nil {
				resigned(t, reply.Verdict, s.kms, task.ParseVerdict, change)
			}
		}
	})
	add("report", "key service", changes(&task.Report{}), func(change func(any)) func(string, any, any, signers) {
		return func(method string, in, _ any, s signers) {
			if r, ok := in.(*pb.ReportRequest); ok && method == "before ReportResult" {
				x, err := task.ParseReport(r.Report)
				if err != nil {
					return // it was changed in an earlier try
				}
				change(x)
				r.Report = x.Canonical()
			}
		}
	})
	add("release", "client", changes(&task.Release{}), func(change func(any)) func(string, any, any, signers) {
		var reply []byte // the client's key for it
		return func(method string, in, out any, s signers) {
			if d, ok := in.(*pb.DepositRequest); ok {
				reply = d.ReplyKey
			}
			r, ok := out.(*pb.ReleaseReply)
			if !ok {
				return
			}
			d, err := task.ParseDecision(r.Decision.Object)
			if err != nil {
				t.Error(err)
				return
			}
			x := &task.Release{
				Spec: d.Spec, Manifest: d.Manifest, Mode: params.SumKey, Terms: d.Terms, Weights: d.Weights, Squares: d.Squares,
				Secret: make([]int32, 4096),
			}
			change(x)
			to := task.Addressee{Spec: d.Spec, Manifest: d.Manifest, Client: "client-0"}
			if r.Sealed, err = envelope.Seal(reply, envelope.Release, to.Canonical(), x.Canonical()); err != nil {
				t.Error(err)
			}
		}
	})
	for name, change := range map[string]func(lines []string){
		"Origin": func(l []string) { l[0] += "0" },
		"Size":   func(l []string) { l[1] += "0" },
		"Root":   func(l []string) { l[2] = base64.StdEncoding.EncodeToString(make([]byte, 32)) },
		"Epoch":  func(l []string) { l[3] = "epoch 1" },
	} {
		all = append(all, field{"checkpoint", name, "client", func(_ string, _, out any, s signers) {
			if reply, ok := out.(*pb.ReleaseReply); ok {
				lines := strings.Split(strings.SplitN(reply.Proof.Checkpoint, "\n\n", 2)[0], "\n")
				change(lines)
				reply.Proof.Checkpoint = checkpoint(t, lines, s.kms)
			}
		}})
	}
	return all
}

// checkpoint signs lines as the key service's log.
func checkpoint(t *testing.T, lines []string, key ed25519.PrivateKey) string {
	t.Helper()
	verifier, err := note.NewEd25519VerifierKey("cryptflow/kms/kms", key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Error(err)
		return ""
	}
	parts := strings.SplitN(verifier, "+", 3)
	secret := base64.StdEncoding.EncodeToString(append([]byte{1}, key.Seed()...))
	signer, err := note.NewSigner("PRIVATE+KEY+" + parts[0] + "+" + parts[1] + "+" + secret)
	if err != nil {
		t.Error(err)
		return ""
	}
	b, err := note.Sign(&note.Note{Text: strings.Join(lines, "\n") + "\n"}, signer)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// TestEveryFieldOfASignedObjectIsChecked changes the fields of what parties sign,
// one at a time, and lets the signer itself sign the change. Somebody honest who
// knows the truth refuses each. The table of who does is docs/reference/fields.md.
func TestEveryFieldOfASignedObjectIsChecked(t *testing.T) {
	const values = 10
	w := newWorld(t, 3)
	// A second start, so that an earlier epoch exists.
	w.stop("kms")
	w.start(t, "kms")
	w.admin(t)
	keys := w.signers(t)
	rows := fields(t)
	codes := make([]string, len(rows))
	t.Run("fields", func(t *testing.T) {
		for k, f := range rows {
			t.Run(f.object+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				codes[k] = w.refused(t, fmt.Sprintf("f-%d", k), values, f, keys)
			})
		}
	})
	if t.Failed() {
		return
	}
	var page strings.Builder
	page.WriteString("# Fields of signed objects\n\n" +
		"This page is for whoever reviews the protocol. It lists every field of what parties sign, and who refuses it when the signer itself changes it. " +
		"`go test ./go/attacks -run EveryField -update` writes it: each row was tried against running services.\n\n" +
		"| object | field | refused by | with |\n| --- | --- | --- | --- |\n")
	lines := make([]string, len(rows))
	for k, f := range rows {
		lines[k] = fmt.Sprintf("| %s | %s | %s | `%s` |\n", f.object, f.name, f.by, codes[k])
	}
	slices.Sort(lines)
	page.WriteString(strings.Join(lines, ""))
	path := filepath.Join("..", "..", "docs", "reference", "fields.md")
	if *update {
		if err := os.WriteFile(path, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != page.String() {
		t.Fatalf("%s is not what the code yields; write it with -update (%v)", path, err)
	}
}

// refused runs a round in which client 0 meets a changed field, and returns the
// code of the refusal.
func (w *world) refused(t *testing.T, name string, values int, f field, keys signers) string {
	w.create(t, name, 0, 3, values, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var bending sync.Mutex
	on := f.name != "Epoch" // which takes an honest round before
	victim := w.member(t, name, 0, 2*time.Second, bent(func(method string, in, out any, call func() error) error {
		bending.Lock()
		active := on
		bending.Unlock()
		if active {
			f.bend("before "+method, in, nil, keys)
		}
		err := call()
		if active && err == nil {
			f.bend(method, nil, out, keys)
		}
		return err
	})...)
	average := func(x *client.Client) error {
		_, err := x.Average(ctx, client.Update{Values: make([]float32, values), Examples: 1}, make([]float32, values), quiet)
		return err
	}
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	for i := 1; i < 3; i++ {
		x := w.member(t, name, i, time.Minute)
		others.Go(func() {
			for average(x) == nil {
			}
		})
	}
	if !on {
		if err := average(victim); err != nil {
			t.Fatalf("an honest round: %v", err)
		}
		bending.Lock()
		on = true
		bending.Unlock()
	}
	err := average(victim)
	if err == nil || errors.Is(err, errs.ErrInternal) {
		t.Fatalf("nobody refused it: %v", err)
	}
	return errs.Find(err).Code
}
