package attacks

import (
	"crypto/tls"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
)

const few = 1000 // values of a small task

// open is the round that a task's clients can contribute to.
func (a *attacker) open(t *testing.T, name string) *pb.RoundStatus {
	t.Helper()
	s, err := a.rounds.AwaitRound(t.Context(), &pb.AwaitRequest{Task: name, Latest: true,
		State: pb.RoundState_KEYED, Seconds: 20})
	if err != nil || s.State < pb.RoundState_KEYED {
		t.Fatalf("no round opens: %v, %v", s, err)
	}
	return s
}

// TestAnotherAggregatorAbortsRounds: it has a certificate of the role, and
// asks the key service to give up or open rounds of somebody else's task.
func TestAnotherAggregatorAbortsRounds(t *testing.T) {
	w := newWorld(t, 3)
	w.create(t, "t", 0, 3, few, 1)
	c := w.issue(t, identity.Aggregator, "another", time.Hour)
	a := w.attacker(t, w.Admin, &c)
	spec := w.attacker(t, w.Clients[0], nil).open(t, "t").Spec
	for name, err := range map[string]error{
		"abort": func() error {
			_, err := a.keys.Abort(t.Context(), &pb.AbortRound{Spec: spec, Reason: "mine"})
			return err
		}(),
		"signed abort": func() error {
			_, err := a.keys.Abort(t.Context(), &pb.AbortRound{Spec: spec, Signature: make([]byte, 64)})
			return err
		}(),
		"open": func() error {
			_, err := a.keys.OpenRound(t.Context(), &pb.OpenRequest{Task: "t", Round: 1, Model: make([]byte, 32)})
			return err
		}(),
	} {
		if err := rpc.FromStatus(err, "key service"); !errors.Is(err, errs.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	average(t, w.members(t, "t", 0, 3), few)
}

// revoke has the authority deny somebody.
func (w *world) revoke(t *testing.T, args ...string) {
	t.Helper()
	c := exec.Command(command, append([]string{"ca", "revoke", "--dir", filepath.Join(w.Folder, "ca")}, args...)...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestAStolenCertificateIsRevoked: its open connections end at both services,
// new ones are refused, and everybody else goes on.
func TestAStolenCertificateIsRevoked(t *testing.T) {
	w := newWorld(t, 4)
	w.create(t, "t", 0, 4, few, 1)
	a := w.attacker(t, w.Clients[3], nil)
	open := a.open(t, "t")
	watched, err := a.rounds.Watch(t.Context(), &pb.TaskName{Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watched.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.keys.GetSpec(t.Context(), &pb.SpecRequest{Task: "t", Round: open.Round}); err != nil {
		t.Fatal(err)
	}
	w.revoke(t, "client/client-3")
	for err = nil; err == nil; _, err = watched.Recv() { // until the service ends it
	}
	for what, call := range map[string]func() error{
		"aggregator":  func() error { _, err := a.rounds.Info(t.Context(), &pb.Empty{}); return err },
		"key service": func() error { _, err := a.keys.Info(t.Context(), &pb.Empty{}); return err },
	} {
		end := time.Now().Add(time.Minute)
		for err = call(); err == nil && time.Now().Before(end); err = call() {
		}
		if err := rpc.FromStatus(err, what); !errors.Is(err, errs.ErrCertificate) && !errors.Is(err, errs.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	honest := w.attacker(t, w.Clients[0], nil)
	if _, err := honest.rounds.GetTask(t.Context(), &pb.TaskName{Name: "t"}); err != nil {
		t.Fatal("another client:", err)
	}
}

// TestTheDenyListIsTakenAway: a service that was told of a list does not start
// without it, nor with an older, cut or foreign one.
func TestTheDenyListIsTakenAway(t *testing.T) {
	w := newWorld(t, 3)
	path := filepath.Join(w.Folder, "ca", identity.DenyListFile)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	w.stop("kms")
	w.stop("aggregator")
	w.revoke(t, "client/client-2")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kms", "aggregator"} {
		w.start(t, name)
	}
	w.admin(t) // both obey number 1 now
	w.stop("kms")
	w.stop("aggregator")
	for what, raw := range map[string][]byte{"older": old, "cut": good[:len(good)-5], "empty": {}, "missing": nil} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if raw != nil {
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"kms", "aggregator"} {
			out, err := exec.CommandContext(t.Context(), command, name, "--config", w.configOf(name)).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "deny_list") {
				t.Errorf("%s with a list that is %s: %v, %s", name, what, err, out)
			}
		}
	}
}

// TestAnExpiredCertificateStaysConnected: a connection ends with the
// certificate that it was made with.
func TestAnExpiredCertificateStaysConnected(t *testing.T) {
	w := newWorld(t, 3)
	w.create(t, "t", 0, 3, few, 1)
	c := w.issue(t, identity.Client, "client-0", 3*time.Second)
	a := w.attacker(t, w.Clients[0], &c)
	watched, err := a.rounds.Watch(t.Context(), &pb.TaskName{Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; _, err = watched.Recv() { // until the service ends it
	}
	if time.Now().Before(a.creds.Ends()) {
		t.Fatal("ended early:", err)
	}
	if _, err := a.rounds.Info(t.Context(), &pb.Empty{}); err == nil {
		t.Fatal("an expired certificate is let in")
	}
}

// TestAServiceCertificateIsRenewed: what lies in its files is served to new
// connections without a restart.
func TestAServiceCertificateIsRenewed(t *testing.T) {
	w := newWorld(t, 3)
	k, err := config.LoadKMS(w.KMS)
	if err != nil {
		t.Fatal(err)
	}
	fresh := w.issue(t, identity.KMS, "kms", time.Hour)
	want, err := identity.ReadCertificate(fresh.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{fresh.Certificate: k.Certificate, fresh.Key: k.Key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	p, err := config.LoadProfile(w.Clients[0])
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(p.Certificate, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; {
		conn, err := tls.Dial("tcp", p.KMS, &tls.Config{InsecureSkipVerify: true,
			Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		got := conn.ConnectionState().PeerCertificates[0]
		_ = conn.Close()
		if got.SerialNumber.Cmp(want.SerialNumber) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the old certificate is still served")
		}
	}
	w.create(t, "t", 0, 3, few, 1)
	average(t, w.members(t, "t", 0, 3), few)
}
