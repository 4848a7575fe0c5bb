package aggregator

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// Config is what an aggregator runs with.
type Config struct {
	Name    string // in its certificate
	Version string
	Signing ed25519.PrivateKey
	Admins  []task.Key // who may sign tasks
	Ledger  storage.Ledger
	Blobs   storage.Blobs
	Keys    pb.KeyServiceClient
	Workers int // that add frames
	Log     *slog.Logger
	Now     func() time.Time
	// Poll is how often the key service is asked whether a round's keys are
	// gone, and how long the engine waits after a failure.
	Poll time.Duration
}

// Service is the aggregator. Its methods are those of
// pb.AggregatorServiceServer and of arrowio's uploads and downloads; rpc's
// interceptors have checked the caller's role before they are called.
type Service struct {
	pb.UnimplementedAggregatorServiceServer
	c    Config
	self task.Key

	mu      sync.Mutex
	uploads map[string]*transfer     // by id
	waiting map[string]*waiters      // by task; nothing for a task that nobody waits for
	engines map[string]chan struct{} // wakes a task's engine
	storing map[string]int           // first models on their way in, by task
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
}

var _ pb.AggregatorServiceServer = (*Service)(nil)

// maxTasks bounds the tasks of one service.
const maxTasks = 1 << 12

// New opens an aggregator and goes on with every task that has not ended.
func New(c Config) (*Service, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if len(c.Admins) == 0 {
		return nil, fmt.Errorf("no admin key is configured, so no task could ever be accepted: %w", errs.ErrConfig)
	}
	s := &Service{
		c: c, self: task.Key(c.Signing.Public().(ed25519.PublicKey)),
		uploads: map[string]*transfer{}, waiting: map[string]*waiters{}, engines: map[string]chan struct{}{},
		storing: map[string]int{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	var names []string
	if err := c.Ledger.View(s.ctx, func(r storage.Reader) error {
		return r.List(bucketTask, "", func(name string, _ []byte) error {
			names = append(names, name)
			return nil
		})
	}); err != nil {
		s.stop()
		return nil, err
	}
	if err := s.tidy(s.ctx); err != nil {
		s.stop()
		return nil, err
	}
	for _, name := range names {
		s.start(name)
	}
	return s, nil
}

// Stop makes every waiting call and engine end.
func (s *Service) Stop() { s.stop() }

// Close stops every engine. What is durable stays; the next start goes on.
func (s *Service) Close() {
	s.stop()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, u := range s.uploads {
		_ = u.Abort() // its staging file is removed at the next start at the latest
		delete(s.uploads, id)
	}
}

// Buckets of the ledger.
const (
	bucketTask   = "agg/task"
	bucketRound  = "agg/round"
	bucketCommit = "agg/commit"
	bucketLive   = "agg/live" // published rounds whose keys exist
)

// taskRow is what the ledger holds of a task.
type taskRow struct {
	Task      []byte `json:"task"`
	Signature []byte `json:"signature"`
	HasModel  bool   `json:"has_model"`
	Brought   bool   `json:"brought,omitempty"` // by every client: the first model is not kept here
	Published uint32 `json:"published"`
	Ended     string `json:"ended"`
	Round     uint32 `json:"round"` // the latest
	Model     []byte `json:"model"` // digest that the latest round starts from
}

// roundRow is what it holds of a round.
type roundRow struct {
	State     task.State `json:"state"`
	Spec      []byte     `json:"spec,omitempty"`
	SpecBy    []byte     `json:"spec_signature,omitempty"`
	Committed uint32     `json:"committed"`
	Deadline  time.Time  `json:"deadline"`
	Reason    string     `json:"reason,omitempty"`
	Manifest  []byte     `json:"manifest,omitempty"`
	Decision  []byte     `json:"decision,omitempty"`
	DecidedBy []byte     `json:"decision_signature,omitempty"`
	Result    []byte     `json:"result,omitempty"`
	Closed    bool       `json:"closed"` // the key service has the result
	// Missing are the clients that announced themselves and are not in the set.
	Missing  []string  `json:"missing,omitempty"`
	Refused  []string  `json:"refused,omitempty"`  // committed, and left out by name
	Failed   string    `json:"failed,omitempty"`   // why a published sum does not count
	Attempts uint32    `json:"attempts,omitempty"` // to have the set decided, that failed
	ClosedAt time.Time `json:"closed_at"`
}

func (r *roundRow) spec() task.Digest {
	if r.Spec == nil {
		return task.Digest{}
	}
	return task.Signed{Bytes: r.Spec}.Digest()
}

// commitRow is a committed contribution.
type commitRow struct {
	Root   []byte `json:"root"`
	Weight uint32 `json:"weight"`
	Blob   string `json:"blob"`
	Frames uint32 `json:"frames"`
	Bytes  uint64 `json:"bytes"`
	// Path proves the canaries beside the frames, in a task that has them.
	Path [][]byte `json:"path,omitempty"`
}

func roundKey(name string, n uint32) string            { return fmt.Sprintf("%s/%08x", name, n) }
func commitKey(spec task.Digest, client string) string { return spec.String() + "/" + client }
func resultBlob(spec task.Digest) string               { return "results/" + spec.String() }
func modelBlob(t task.Digest) string                   { return "models/" + t.String() }
func uploadFolder(spec task.Digest) string             { return "contributions/" + spec.String() + "/" }
func uploadBlob(spec task.Digest, client, id string) string {
	return uploadFolder(spec) + client + "/" + id
}

func getRow[T any](r storage.Reader, bucket, key string) (*T, error) {
	b, err := r.Get(bucket, key)
	if err != nil || b == nil {
		return nil, err
	}
	x := new(T)
	if err := json.Unmarshal(b, x); err != nil {
		return nil, fmt.Errorf("%s %s: %w", bucket, key, errs.ErrStorage)
	}
	return x, nil
}

func putRow[T any](w storage.Writer, bucket, key string, x *T) error {
	b, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("%s %s: %w", bucket, key, errs.ErrInternal)
	}
	return w.Put(bucket, key, b)
}

// move changes a round's state, as the state machine allows.
func (r *roundRow) move(next task.State) error {
	if err := r.State.Step(next); err != nil {
		return err
	}
	r.State = next
	return nil
}

// taskOf returns a task and its row.
func taskOf(r storage.Reader, name string) (*task.Task, *taskRow, error) {
	if !task.ValidName(name) {
		return nil, nil, fmt.Errorf("a name of %d bytes that no task can have: %w", len(name), errs.ErrNoTask)
	}
	row, err := getRow[taskRow](r, bucketTask, name)
	if err != nil {
		return nil, nil, err
	}
	if row == nil {
		return nil, nil, fmt.Errorf("%q: %w", name, errs.ErrNoTask)
	}
	t, err := task.ParseTask(row.Task)
	return t, row, err
}

// place is a round found by its specification's digest.
type place struct {
	task  *task.Task
	row   *taskRow
	n     uint32
	round *roundRow
}

// bucketSpec finds rounds by the digest of their specification.
const bucketSpec = "agg/spec"

type specRow struct {
	Task  string `json:"task"`
	Round uint32 `json:"round"`
}

// find returns the round of a specification; clients must be enrolled.
func find(ctx context.Context, r storage.Reader, spec []byte) (*place, error) {
	if len(spec) != len(task.Digest{}) {
		return nil, fmt.Errorf("a digest of %d bytes: %w", len(spec), errs.ErrArgument)
	}
	where, err := getRow[specRow](r, bucketSpec, task.Digest(spec).String())
	if err != nil {
		return nil, err
	}
	if where == nil {
		return nil, fmt.Errorf("specification %s: %w", task.Digest(spec).Short(), errs.ErrNoRound)
	}
	p := &place{n: where.Round}
	if p.task, p.row, err = taskOf(r, where.Task); err != nil {
		return nil, err
	}
	if p.round, err = getRow[roundRow](r, bucketRound, roundKey(where.Task, where.Round)); err != nil {
		return nil, err
	}
	if p.round == nil {
		return nil, fmt.Errorf("round %d of %s: %w", where.Round, where.Task, errs.ErrStorage)
	}
	return p, enrolled(ctx, p.task)
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

// geometry is the shape of a round's contributions.
func (p *place) geometry() (frame.Geometry, error) {
	kind, err := p.kind()
	if err != nil {
		return frame.Geometry{}, err
	}
	shape, err := p.task.Shape(kind)
	if err != nil {
		return frame.Geometry{}, err
	}
	return shape.Geometry(p.round.spec())
}

// kind is what the round sums.
func (p *place) kind() (task.Kind, error) {
	spec, err := task.ParseRoundSpec(p.round.Spec)
	if err != nil {
		return 0, err
	}
	return spec.Kind, nil
}

// ended says why a round takes no more contributions.
func (p *place) ended() error {
	switch s := p.round.State; {
	case s == task.RoundAborted:
		return fmt.Errorf("round %d of %s: %s: %w", p.n, p.task.Name, p.round.Reason, errs.ErrAborted)
	case s >= task.RoundSealed:
		return fmt.Errorf("round %d of %s: %w", p.n, p.task.Name, errs.ErrNotInCohort)
	case s < task.RoundKeyed:
		return fmt.Errorf("round %d of %s is not open: %w", p.n, p.task.Name, errs.ErrState)
	}
	return nil
}

// Info says what an admin pins.
func (s *Service) Info(context.Context, *pb.Empty) (*pb.ServiceInfo, error) {
	return &pb.ServiceInfo{Name: s.c.Name, Version: s.c.Version, SigningKey: s.self[:], UnixMillis: s.c.Now().UnixMilli()}, nil
}
