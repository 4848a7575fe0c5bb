package kms_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/envelope"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/kms"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// stop closes the ledger, so that its file is whole and can be copied.
func (d *desk) stop() {
	d.t.Helper()
	if err := d.ledger.Close(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) read(name string) []byte {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.folder, name))
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

func (d *desk) write(name string, b []byte) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.folder, name), b, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// released is a desk whose first round was released, and the ledger of before.
func released(t *testing.T) (d *desk, backup []byte, spec task.Digest) {
	d = newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	gifts := d.gifts(s, "a", "b", "c")
	d.stop()
	backup = d.read("ledger.db")
	d.open()
	if _, err := d.ask(manifest(gifts)); err != nil {
		t.Fatal(err)
	}
	d.stop()
	return d, backup, task.DigestOf(s)
}

// TestARestoredLedgerIsRefused: it has forgotten a decision that was signed. With
// it, the key service would sign an abort of the released round.
func TestARestoredLedgerIsRefused(t *testing.T) {
	for name, tamper := range map[string]func(d *desk){
		"the ledger alone":           func(*desk) {},
		"the ledger without epoch":   func(d *desk) { _ = os.RemoveAll(filepath.Join(d.folder, "epoch")) },
		"the ledger without keys":    func(d *desk) { _ = os.RemoveAll(filepath.Join(d.folder, "keys")) },
		"the epoch's file is broken": func(d *desk) { d.write("epoch/epoch.json", []byte("{")) },
	} {
		t.Run(name, func(t *testing.T) {
			d, backup, _ := released(t)
			d.write("ledger.db", backup)
			tamper(d)
			want(t, "starting", d.tryOpen(), errs.ErrRestored)
			want(t, "starting again", d.tryOpen(), errs.ErrRestored)
		})
	}
}

// TestARecoveredKeyServiceContradictsNothing: every task of before is given up,
// and new ones work.
func TestARecoveredKeyServiceContradictsNothing(t *testing.T) {
	d, backup, spec := released(t)
	want(t, "recovering what is whole", d.recover(), errs.ErrState)
	d.write("ledger.db", backup)
	if err := d.recover(); err != nil {
		t.Fatal(err)
	}
	d.open()
	if d.vault() != 0 {
		t.Fatal("keys of lost rounds are left")
	}
	aggregator := as(identity.Aggregator, "sum")
	_, err := d.Abort(aggregator, d.toAbort(0, spec, "test", d.aggregator))
	want(t, "an abort of the released round", err, errs.ErrLost)
	result := &task.Result{Spec: spec, Manifest: task.Digest{1}, Root: task.Digest{4}, Frames: 2, Terms: 3}
	_, err = d.CloseRound(aggregator, pbSigned(task.Sign(result, d.aggregator)))
	want(t, "its result", err, errs.ErrLost)
	_, err = d.GetDecision(aggregator, &pb.SpecId{Spec: spec[:]})
	want(t, "its decision", err, errs.ErrLost)
	_, err = d.OpenRound(aggregator, d.toOpen(1, d.task.InitialModel, d.aggregator))
	want(t, "a further round", err, errs.ErrLost)
	if e := d.events(); e[audit.Aborted] != 0 || e[audit.Lost] != 1 || e[audit.Recovered] != 1 {
		t.Fatalf("%v", e)
	}
	again := *d.task
	again.Name, again.Nonce = "u", [32]byte{9}
	d.task = &again
	d.create()
	in := d.toOpen(0, d.task.InitialModel, d.aggregator)
	in.Task = "u"
	reply, err := d.OpenRound(aggregator, in)
	if err != nil || reply.Spec == nil {
		t.Fatal("a new task opens no round", err)
	}
}

// TestARoundWithoutItsKeyIsLost, never aborted by signature: a ledger that is up
// to date beside a vault that is not.
func TestARoundWithoutItsKeyIsLost(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	d.gifts(s, "a", "b", "c")
	aggregator := as(identity.Aggregator, "sum")
	if err := os.RemoveAll(filepath.Join(d.folder, "keys")); err != nil {
		t.Fatal(err)
	}
	_, err := d.Abort(aggregator, d.toAbort(0, task.DigestOf(s), "test", d.aggregator))
	want(t, "an abort", err, errs.ErrLost)
	d.restart()
	_, err = d.Abort(aggregator, d.toAbort(0, task.DigestOf(s), "test", d.aggregator))
	want(t, "an abort after a restart", err, errs.ErrLost)
	_, err = d.OpenRound(aggregator, d.toOpen(1, d.task.InitialModel, d.aggregator))
	want(t, "the next round", err, errs.ErrLost)
	g := d.gift(s, "d", 4)
	_, err = d.Deposit(as(identity.Client, "d"), g.in)
	want(t, "a deposit", err, errs.ErrLost)
	if e := d.events(); e[audit.Aborted] != 0 || e[audit.Lost] != 1 {
		t.Fatalf("%v", e)
	}
}

// TestTwoCopiesOfAKeyServiceAreNoticed by the checkpoints that clients show, in
// the round that follows.
func TestTwoCopiesOfAKeyServiceAreNoticed(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	d.stop()
	twin := *d
	twin.folder, twin.log = t.TempDir(), &bytes.Buffer{}
	if err := os.CopyFS(twin.folder, os.DirFS(d.folder)); err != nil {
		t.Fatal(err)
	}
	d.open()
	twin.open()
	first, second := d.round(0, d.task.InitialModel), twin.round(0, d.task.InitialModel)
	if task.DigestOf(first) == task.DigestOf(second) {
		t.Fatal("the copies are not two")
	}
	if err := d.announce(first, "a", d.checkpoint()); err != nil {
		t.Fatal(err)
	}
	want(t, "a checkpoint of the other copy", twin.announce(second, "a", d.checkpoint()), errs.ErrRestored)
	want(t, "whoever comes next", twin.announce(second, "b", ""), errs.ErrRestored)
	twin.stop()
	want(t, "starting again", twin.tryOpen(), errs.ErrRestored)
	if err := twin.recover(); err != nil {
		t.Fatal(err)
	}
	twin.open()
	if err := d.announce(first, "b", "nobody signed this"); err == nil {
		t.Fatal("a checkpoint without a signature is taken")
	}
}

// TestDestroyedKeysAreOverwrittenWhereTheyLay: whoever still has the file open,
// as a disk has its blocks, finds zeros.
func TestDestroyedKeysAreOverwrittenWhereTheyLay(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	gifts := d.gifts(d.round(0, d.task.InitialModel), "a", "b", "c")
	entries, err := os.ReadDir(filepath.Join(d.folder, "keys"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	f, err := os.Open(filepath.Join(d.folder, "keys", entries[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := d.ask(manifest(gifts)); err != nil {
		t.Fatal(err)
	}
	after, err := io.ReadAll(f)
	if err != nil || len(after) == 0 || !bytes.Equal(after, make([]byte, len(after))) {
		t.Fatalf("%d bytes are left of a destroyed key: %v", len(bytes.Trim(after, "\x00")), err)
	}
}

// TestSealedSeedsLeaveTheLedgersFiles with the decision: its write-ahead log and
// its free pages too, while the service runs.
func TestSealedSeedsLeaveTheLedgersFiles(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	gifts := d.gifts(d.round(0, d.task.InitialModel), "a", "b", "c")
	files := func() (all []byte) {
		for _, name := range []string{"ledger.db", "ledger.db-wal"} {
			b, err := os.ReadFile(filepath.Join(d.folder, name))
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		return all
	}
	seed := func(g *gift) []byte { return g.in.Sealed[len(g.in.Sealed)-48:] } // the ciphertext of the seed
	for _, g := range gifts {
		if !bytes.Contains(files(), seed(g)) {
			t.Fatal("the test looks in the wrong place")
		}
	}
	if _, err := d.ask(manifest(gifts)); err != nil {
		t.Fatal(err)
	}
	for _, g := range gifts {
		if bytes.Contains(files(), seed(g)) {
			t.Fatalf("the sealed seed of %s is still in the ledger's files", g.Client)
		}
	}
}

// TestTheKeyEncryptionKeyRotates, also when it is interrupted half-way.
func TestTheKeyEncryptionKeyRotates(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	gifts := d.gifts(d.round(0, d.task.InitialModel), "a", "b", "c")
	d.stop()
	path, old := filepath.Join(d.folder, "kek"), d.read("kek")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d.write("kek.next", bytes.Repeat([]byte{5}, 32)) // as if it had been interrupted
	want(t, "starting in between", kms.CheckKEK(path), errs.ErrConfig)
	n, err := kms.RotateKEK(path, filepath.Join(d.folder, "keys"))
	if err != nil || n != 1 || bytes.Equal(d.read("kek"), old) {
		t.Fatalf("%d keys: %v", n, err)
	}
	left, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(left, make([]byte, 32)) {
		t.Fatal("the old key-encryption key is still on the disk", err)
	}
	if err := kms.CheckKEK(path); err != nil {
		t.Fatal(err)
	}
	d.open()
	if _, err := d.ask(manifest(gifts)); err != nil {
		t.Fatal("the round cannot be decided under the new key", err)
	}
	// Killed once more, between the last rename and the end of the old key.
	if _, err := os.Lstat(path + ".old"); err == nil {
		t.Fatal("the old key still has a name")
	}
	current := d.read("kek")
	d.write("kek.old", old)
	retired, err := os.Open(path + ".old")
	if err != nil {
		t.Fatal(err)
	}
	defer retired.Close()
	want(t, "starting before the old key is destroyed", kms.CheckKEK(path), errs.ErrConfig)
	if _, err = kms.RotateKEK(path, filepath.Join(d.folder, "keys")); err != nil || !bytes.Equal(d.read("kek"), current) {
		t.Fatal("the last step was not all that was left", err)
	}
	if left, err = io.ReadAll(retired); err != nil || !bytes.Equal(left, make([]byte, 32)) {
		t.Fatal("the old key-encryption key is still on the disk", err)
	}
	_, err = kms.RotateKEK(filepath.Join(d.folder, "none"), filepath.Join(d.folder, "keys"))
	want(t, "a key-encryption key that does not exist", err, errs.ErrConfig)
}

// TestNobodySealsToALowOrderKey: such a key parses, and fails when it is used.
func TestNobodySealsToALowOrderKey(t *testing.T) {
	k, err := envelope.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	low := bytes.Clone(k.Public())
	clear(low[len(low)-32:])
	want(t, "checking it", envelope.CheckPublic(low), errs.ErrCanonical)
}

func (d *desk) announce(s *task.RoundSpec, client, checkpoint string) error {
	a := &task.Announcement{Spec: task.DigestOf(s), Client: client, ModelDigest: s.ModelDigest}
	in := &pb.AnnounceRequest{Announcement: a.Canonical(), Checkpoint: checkpoint}
	_, err := d.Announce(as(identity.Client, client), in)
	return err
}

func (d *desk) checkpoint() string {
	d.t.Helper()
	reply, err := d.Audit(context.Background(), &pb.AuditRequest{})
	if err != nil {
		d.t.Fatal(err)
	}
	return reply.Checkpoint
}

// TestARecoveredKeyServiceStaysUp although clients still hold checkpoints of what
// it has forgotten: each of them could otherwise stop it again, for ever.
func TestARecoveredKeyServiceStaysUp(t *testing.T) {
	for name, lose := range map[string]func(*desk){
		"the ledger":               func(*desk) {},
		"the ledger and the epoch": func(d *desk) { _ = os.RemoveAll(filepath.Join(d.folder, "epoch")) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, params.SumKey)
			d.create()
			s := d.round(0, d.task.InitialModel)
			d.stop()
			backup := d.read("ledger.db")
			d.open()
			d.restart()
			if _, err := d.ask(manifest(d.gifts(s, "a", "b", "c"))); err != nil {
				t.Fatal(err)
			}
			old := d.checkpoint()
			d.stop()
			d.write("ledger.db", backup)
			lose(d)
			if err := d.recover(); err != nil {
				t.Fatal(err)
			}
			d.open()
			if name != "the ledger" {
				// It cannot know how far it had come. Whoever shows it is believed once.
				want(t, "a checkpoint of a later epoch", d.announce(s, "a", old), errs.ErrRestored)
				d.stop()
				if err := d.recover(); err != nil {
					t.Fatal(err)
				}
				d.open()
			}
			want(t, "a checkpoint of before the recovery", d.announce(s, "a", old), errs.ErrLost)
			d.restart()
			want(t, "the same after a restart", d.announce(s, "a", old), errs.ErrLost)
			want(t, "whoever comes next", d.announce(s, "b", d.checkpoint()), errs.ErrLost)
		})
	}
}

// TestARecoveryDestroysTheKeysOfLostRounds, and the sealed seeds with them.
func TestARecoveryDestroysTheKeysOfLostRounds(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	g := d.gifts(s, "a")[0]
	d.stop()
	backup := d.read("ledger.db")
	d.open()
	d.stop()
	d.write("ledger.db", backup)
	if d.vault() != 1 {
		t.Fatal("the test looks in the wrong place")
	}
	if err := d.recover(); err != nil {
		t.Fatal(err)
	}
	if d.vault() != 0 {
		t.Fatal("the key of a lost round is left")
	}
	for _, name := range []string{"ledger.db", "ledger.db-wal"} {
		b, err := os.ReadFile(filepath.Join(d.folder, name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if bytes.Contains(b, g.in.Sealed[len(g.in.Sealed)-48:]) {
			t.Fatalf("a sealed seed of a lost round is still in %s", name)
		}
	}
}

// TestAKilledFirstStartIsNoRestore: the ledger had its first epoch, and the file
// did not say so yet.
func TestAKilledFirstStartIsNoRestore(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.stop()
	if err := os.RemoveAll(d.folder); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.folder, 0o700); err != nil {
		t.Fatal(err)
	}
	c := d.config()
	path := filepath.Join(d.folder, "epoch", "epoch.json")
	var then []byte // nil when there was no file
	c.Ledger = &watchedLedger{Ledger: c.Ledger, committed: func() { then, _ = os.ReadFile(path) }}
	if _, err := kms.New(c); err != nil {
		t.Fatal(err)
	}
	d.stop()
	_ = os.Remove(path)
	if then != nil {
		d.write("epoch/epoch.json", then)
	}
	if err := d.tryOpen(); err != nil {
		t.Fatal(err)
	}
}

// watchedLedger says when its first transaction is durable.
type watchedLedger struct {
	storage.Ledger
	once      bool
	committed func()
}

func (l *watchedLedger) Update(ctx context.Context, f func(storage.Writer) error) error {
	err := l.Ledger.Update(ctx, f)
	if err == nil && !l.once {
		l.once = true
		l.committed()
	}
	return err
}

// TestARoundThatOnlyHasAnnouncementsEnds: clients that announced themselves and
// vanished would otherwise hold every place of it for ever.
func TestARoundThatOnlyHasAnnouncementsEnds(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	s := d.round(0, d.task.InitialModel)
	for _, name := range clients[:5] {
		if err := d.announce(s, name, ""); err != nil {
			t.Fatal(err)
		}
	}
	want(t, "the sixth of five places", d.announce(s, clients[5], ""), errs.ErrNotInCohort)
	d.now = d.now.Add(time.Hour + 2*time.Minute)
	if err := d.Sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
	if d.events()[audit.Aborted] != 1 {
		t.Fatal("the round goes on without anybody")
	}
	if err := d.announce(d.round(1, d.task.InitialModel), clients[5], ""); err != nil {
		t.Fatal(err)
	}
}

// TestOneBrokenRoundDoesNotStopTheSweep of the others.
func TestOneBrokenRoundDoesNotStopTheSweep(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.create()
	first := d.round(0, d.task.InitialModel)
	d.gifts(first, "a")
	entries, err := os.ReadDir(filepath.Join(d.folder, "keys"))
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	lost := filepath.Join(d.folder, "keys", entries[0].Name())
	again := *d.task
	for n := range byte(4) { // on either side of the broken one, by digest
		again.Name, again.Nonce = string('u'+rune(n)), [32]byte{n + 1}
		d.task = &again
		d.create()
		in := d.toOpen(0, d.task.InitialModel, d.aggregator)
		in.Task = again.Name
		reply, err := d.OpenRound(as(identity.Aggregator, "sum"), in)
		if err != nil {
			t.Fatal(err)
		}
		s, err := task.ParseRoundSpec(reply.Spec.Object)
		if err != nil {
			t.Fatal(err)
		}
		d.gifts(s, "a")
	}
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	d.now = d.now.Add(2 * time.Hour)
	_ = d.Sweep(context.Background()) // it says that one is lost
	if n := d.events()[audit.Aborted]; n != 4 {
		t.Fatalf("%d of 4 overdue rounds were aborted", n)
	}
}

// TestAKilledDecisionLeavesNoSealedSeed in the ledger's files once the service runs
// again: it was killed after the decision and before the files were cleared.
func TestAKilledDecisionLeavesNoSealedSeed(t *testing.T) {
	d := newDesk(t, params.SumKey)
	d.stop()
	c := d.config()
	c.Ledger = &watchedLedger{Ledger: c.Ledger, committed: func() {}} // which clears nothing
	var err error
	if d.Service, err = kms.New(c); err != nil {
		t.Fatal(err)
	}
	d.create()
	gifts := d.gifts(d.round(0, d.task.InitialModel), "a", "b", "c")
	if _, err := d.ask(manifest(gifts)); err != nil {
		t.Fatal(err)
	}
	twin := *d
	twin.folder = t.TempDir()
	if err := os.CopyFS(twin.folder, os.DirFS(d.folder)); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(twin.folder, "ledger.db-shm"))
	left := func() bool {
		for _, name := range []string{"ledger.db", "ledger.db-wal"} {
			b, err := os.ReadFile(filepath.Join(twin.folder, name))
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if bytes.Contains(b, gifts[0].in.Sealed[len(gifts[0].in.Sealed)-48:]) {
				return true
			}
		}
		return false
	}
	if !left() {
		t.Fatal("the test looks in the wrong place")
	}
	twin.open()
	defer twin.stop()
	if left() {
		t.Fatal("a sealed seed is still in the ledger's files")
	}
}
