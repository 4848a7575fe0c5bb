package kms

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// Limits of what one caller can make the service keep.
const (
	// MaxDeposits of one client in one round: a client that lost its secrets
	// draws new ones; more than a few losses are an attack.
	MaxDeposits = 4
	// maxRefusals bounds the audit records that one round's refusals make.
	maxRefusals = 256
	// maxTasks bounds the tasks of one service.
	maxTasks = 1 << 12
)

// Config is what a key service runs with.
type Config struct {
	Name    string // in its certificate
	Version string
	Signing ed25519.PrivateKey
	Admins  []task.Key // who may sign tasks
	Gate    Gate
	Ledger  storage.Ledger
	Keys    string // folder of wrapped keys, outside the ledger and its backups
	Epoch   string // folder of the epoch's file, outside backups; Keys when empty
	Wrapper Wrapper
	// ReleaseLife is how long clients can fetch a release after the decision.
	ReleaseLife time.Duration
	// RoundLife is how long a round may stay undecided after its first
	// announcement, beyond the task's own deadline.
	RoundLife time.Duration
	// VerdictWait is how long the next round waits for the reports of a
	// published round's cohort; half a minute when zero.
	VerdictWait time.Duration
	// Noticed is told of what an operator watches: clients that announced
	// themselves and are not in a released set, clients refused by name, sums that
	// did not open, reports that differ. It may be nil.
	Noticed func(what string, n int)
	Log     *slog.Logger
	Now     func() time.Time
}

// What Noticed is told of.
const (
	NoticedMissing      = "missing"
	NoticedExcluded     = "excluded"
	NoticedFailed       = "failed"
	NoticedDisagreement = "disagreement"
)

// Service is the key service. Its methods are those of pb.KeyServiceServer;
// rpc's interceptors have checked the caller's role before they are called.
type Service struct {
	pb.UnimplementedKeyServiceServer
	c      Config
	self   task.Key
	vault  *vault
	signer *audit.Signer
	mu     sync.Mutex // one change at a time; reads go to the ledger's snapshots

	reported bell // rung after every report and result

	epoch    *epochFile
	fencedMu sync.Mutex
	fenced   error // why the service serves no more
}

var _ pb.KeyServiceServer = (*Service)(nil)

// prepare makes a service that has not looked at its ledger yet. found says
// whether there was an epoch.
func prepare(c Config) (s *Service, found bool, err error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.VerdictWait == 0 {
		c.VerdictWait = defaultVerdictWait
	}
	if c.Epoch == "" {
		c.Epoch = c.Keys
	}
	if c.Noticed == nil {
		c.Noticed = func(string, int) {}
	}
	if len(c.Admins) == 0 {
		return nil, false, fmt.Errorf("no admin key is configured, so no task could ever be accepted: %w", errs.ErrConfig)
	}
	s = &Service{c: c, self: task.Key(c.Signing.Public().(ed25519.PublicKey))}
	if s.vault, err = newVault(c.Keys, c.Wrapper); err != nil {
		return nil, false, err
	}
	if s.signer, err = audit.NewSigner(c.Name, c.Signing); err != nil {
		return nil, false, err
	}
	s.epoch, found, err = openEpoch(c.Epoch)
	return s, found, err
}

// New opens a key service and finishes what a crash interrupted. It returns
// ErrRestored when the ledger is older than the epoch.
func New(c Config) (*Service, error) {
	s, found, err := prepare(c)
	if err != nil {
		return nil, err
	}
	if s.c.Gate.Floor == HardFloor {
		c.Log.Warn("the floor is 2: two clients learn each other's update from the sum")
	}
	ctx := context.Background()
	if err := s.resume(ctx, found); err != nil {
		return nil, err
	}
	if err := s.findLost(ctx); err != nil {
		return nil, err
	}
	return s, errors.Join(s.Sweep(ctx), s.scrub(ctx))
}

// Buckets of the ledger.
const (
	bucketTask    = "kms/task"
	bucketSpec    = "kms/spec"
	bucketRound   = "kms/round"
	bucketDeposit = "kms/deposit"
	bucketRelease = "kms/release"
	bucketReport  = "kms/report"
	// bucketAnnounced has a row for every client that announced itself.
	bucketAnnounced = "kms/announced"
)

// round is what the ledger holds of a round, by its specification's digest.
type round struct {
	Task       string    `json:"task"`
	TaskDigest string    `json:"task_digest"`
	Round      uint32    `json:"round"`
	Opened     time.Time `json:"opened"`
	Announced  time.Time `json:"announced"` // first announcement
	Deposited  time.Time `json:"deposited"` // first deposit
	Decision   []byte    `json:"decision,omitempty"`
	Signature  []byte    `json:"signature,omitempty"`
	Decided    time.Time `json:"decided"`
	Manifest   []byte    `json:"manifest,omitempty"`
	ManifestBy []byte    `json:"manifest_signature,omitempty"`
	Record     int64     `json:"record"` // of the decision, in the audit log
	Result     []byte    `json:"result,omitempty"`
	Destroyed  bool      `json:"destroyed"`
	Refusals   int       `json:"refusals"`

	DestroyedRecord int64     `json:"destroyed_record,omitempty"` // of it, in the audit log
	Missing         []string  `json:"missing,omitempty"`          // announced, and not in the released set
	Excluded        []string  `json:"excluded,omitempty"`         // refused by name
	Closed          time.Time `json:"closed"`                     // when the result came
	Verdict         []byte    `json:"verdict,omitempty"`
	VerdictBy       []byte    `json:"verdict_signature,omitempty"`
	VerdictRecord   int64     `json:"verdict_record,omitempty"`
	Settled         bool      `json:"settled,omitempty"` // the next round follows from the result, or the verdict
	Lost            string    `json:"lost,omitempty"`    // why it can never be decided
}

// verdict is what the cohort's majority reported; nil while it has not.
func (r *round) verdict() (*task.Verdict, error) {
	if r.Verdict == nil {
		return nil, nil
	}
	return task.ParseVerdict(r.Verdict)
}

func (r *round) decision() (*task.Decision, error) {
	if r.Decision == nil {
		return nil, nil
	}
	return task.ParseDecision(r.Decision)
}

// keyName names a round's key in the vault: known before its digest is.
func keyName(taskDigest string, n uint32) string { return fmt.Sprintf("%s-%08x", taskDigest, n) }

func specKey(taskDigest string, n uint32) string { return fmt.Sprintf("%s/%08x", taskDigest, n) }

func signed(s task.Signed) *pb.Signed { return &pb.Signed{Object: s.Bytes, Signature: s.Signature} }

func unsigned(s *pb.Signed) task.Signed {
	return task.Signed{Bytes: s.GetObject(), Signature: s.GetSignature()}
}

func getProto(r storage.Reader, bucket, key string, m proto.Message) (bool, error) {
	b, err := r.Get(bucket, key)
	if err != nil || b == nil {
		return false, err
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return false, fmt.Errorf("%s %s: %w", bucket, key, errs.ErrStorage)
	}
	return true, nil
}

func putProto(w storage.Writer, bucket, key string, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("%s %s: %w", bucket, key, errs.ErrInternal)
	}
	return w.Put(bucket, key, b)
}

// taskOf returns the task called name.
func taskOf(r storage.Reader, name string) (*task.Task, *pb.Signed, error) {
	if !task.ValidName(name) {
		return nil, nil, fmt.Errorf("a name of %d bytes that no task can have: %w", len(name), errs.ErrNoTask)
	}
	var s pb.Signed
	ok, err := getProto(r, bucketTask, name, &s)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, fmt.Errorf("%q: %w", name, errs.ErrNoTask)
	}
	t, err := task.ParseTask(s.Object)
	return t, &s, err
}

// roundOf returns the round of a specification's digest.
func roundOf(r storage.Reader, spec task.Digest) (*round, error) {
	b, err := r.Get(bucketRound, spec.String())
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("specification %s: %w", spec.Short(), errs.ErrNoRound)
	}
	x := &round{}
	if err := json.Unmarshal(b, x); err != nil {
		return nil, fmt.Errorf("round %s: %w", spec.Short(), errs.ErrStorage)
	}
	return x, nil
}

func putRound(w storage.Writer, spec task.Digest, r *round) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("round %s: %w", spec.Short(), errs.ErrInternal)
	}
	return w.Put(bucketRound, spec.String(), b)
}

func specOf(r storage.Reader, taskDigest string, n uint32) (*task.RoundSpec, *pb.SpecReply, error) {
	var reply pb.SpecReply
	ok, err := getProto(r, bucketSpec, specKey(taskDigest, n), &reply)
	if err != nil || !ok {
		return nil, nil, err
	}
	s, err := task.ParseRoundSpec(reply.Spec.GetObject())
	return s, &reply, err
}

func digest(b []byte) (task.Digest, error) {
	if len(b) != len(task.Digest{}) {
		return task.Digest{}, fmt.Errorf("a digest of %d bytes: %w", len(b), errs.ErrArgument)
	}
	return task.Digest(b), nil
}

// Info says what an admin pins.
func (s *Service) Info(context.Context, *pb.Empty) (*pb.ServiceInfo, error) {
	return &pb.ServiceInfo{Name: s.c.Name, Version: s.c.Version, SigningKey: s.self[:], Floor: max(s.c.Gate.Floor, HardFloor), UnixMillis: s.c.Now().UnixMilli()}, nil
}

// CreateTask accepts a task that a configured admin signed.
func (s *Service) CreateTask(ctx context.Context, in *pb.Signed) (*pb.Empty, error) {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return nil, err
	}
	object := unsigned(in)
	if !slices.ContainsFunc(s.c.Admins, func(k task.Key) bool { return object.Verify(k) == nil }) {
		return nil, fmt.Errorf("the task is not signed by an admin of this key service; admin_keys of its configuration must have the public half of signing_key: %w", errs.ErrSignature)
	}
	t, err := task.ParseTask(object.Bytes)
	if err != nil {
		return nil, err
	}
	if t.KMS != s.self {
		return nil, fmt.Errorf("the task names another key service: %w", errs.ErrSpec)
	}
	if err := s.c.Gate.Feasible(t); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.update(ctx, func(w storage.Writer) error {
		before, err := w.Get(bucketTask, t.Name)
		if err != nil {
			return err
		}
		if before != nil {
			var old pb.Signed
			if proto.Unmarshal(before, &old) == nil && string(old.Object) == string(in.Object) {
				return nil
			}
			return fmt.Errorf("%q: %w", t.Name, errs.ErrTaskExists)
		}
		n := 0
		if err := w.List(bucketTask, "", func(string, []byte) error { n++; return nil }); err != nil {
			return err
		}
		if n >= maxTasks {
			return fmt.Errorf("%d tasks: %w", n, errs.ErrLimit)
		}
		if err := putProto(w, bucketTask, t.Name, signed(object)); err != nil {
			return err
		}
		_, err = s.record(w, audit.Record{Event: audit.TaskCreated, Task: t.Name, By: caller.String(), Detail: task.DigestOf(t).String()})
		return err
	})
	return &pb.Empty{}, err
}

// GetTask returns a task as it was signed.
func (s *Service) GetTask(ctx context.Context, in *pb.TaskName) (out *pb.Signed, err error) {
	err = s.view(ctx, func(r storage.Reader) error {
		var t *task.Task
		if t, out, err = taskOf(r, in.Name); err != nil {
			return err
		}
		return enrolled(ctx, t)
	})
	return out, err
}

// enrolled refuses clients that the task does not list.
func enrolled(ctx context.Context, t *task.Task) error {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return err
	}
	if _, ok := t.Member(caller.Name); caller.Role == identity.Client && !ok {
		return fmt.Errorf("%s in task %s: %w", caller.Name, t.Name, errs.ErrNotEnrolled)
	}
	return nil
}

func (s *Service) view(ctx context.Context, f func(storage.Reader) error) error {
	return s.c.Ledger.View(ctx, f)
}

// record appends to the audit log within a transaction.
func (s *Service) record(w storage.Writer, r audit.Record) (int64, error) {
	r.Time = s.c.Now()
	return audit.Append(w, r)
}

// proof shows that a record stands in the log as it is now, and that the log
// continues the one of known records.
func (s *Service) proof(r storage.Reader, index, known int64) (*pb.Proof, error) {
	checkpoint, size, err := s.signer.Checkpoint(r)
	if err != nil {
		return nil, err
	}
	lines, err := audit.Records(r, index, 1)
	if err != nil || len(lines) != 1 {
		return nil, errors.Join(err, fmt.Errorf("record %d: %w", index, errs.ErrAudit))
	}
	p := &pb.Proof{Index: index, Record: lines[0], Checkpoint: checkpoint}
	if p.Inclusion, err = audit.ProveRecord(r, size, index); err != nil {
		return nil, err
	}
	p.Consistency, err = audit.ProveConsistency(r, size, known)
	return p, err
}

// maxAudit is how many records one answer carries.
const maxAudit = 1 << 10

// Audit returns records of the log with a checkpoint and its consistency.
func (s *Service) Audit(ctx context.Context, in *pb.AuditRequest) (out *pb.AuditReply, err error) {
	out = &pb.AuditReply{}
	return out, s.view(ctx, func(r storage.Reader) error {
		var size int64
		if out.Checkpoint, size, err = s.signer.Checkpoint(r); err != nil {
			return err
		}
		if out.Consistency, err = audit.ProveConsistency(r, size, in.KnownSize); err != nil {
			return err
		}
		out.Records, err = audit.Records(r, in.From, maxAudit)
		return err
	})
}
