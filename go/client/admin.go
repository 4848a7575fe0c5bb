package client

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/privacy"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// Admin creates, watches and aborts tasks.
type Admin struct {
	Rounds     pb.AggregatorServiceClient
	Keys       pb.KeyServiceClient
	signing    ed25519.PrivateKey
	aggregator *grpc.ClientConn
	kms        *grpc.ClientConn
}

// NewAdmin prepares the connections. signing may be nil for one that only
// looks.
func NewAdmin(aggregator, kms string, c *identity.Credentials, signing ed25519.PrivateKey) (*Admin, error) {
	a := &Admin{signing: signing}
	var err error
	if a.aggregator, err = rpc.Dial(aggregator, c, identity.Aggregator, false); err != nil {
		return nil, err
	}
	if a.kms, err = rpc.Dial(kms, c, identity.KMS, false); err != nil {
		return nil, errors.Join(err, a.aggregator.Close())
	}
	a.Rounds, a.Keys = pb.NewAggregatorServiceClient(a.aggregator), pb.NewKeyServiceClient(a.kms)
	return a, nil
}

// Close ends the connections.
func (a *Admin) Close() error { return errors.Join(a.aggregator.Close(), a.kms.Close()) }

// TaskRequest is what an admin decides on. Zero values take defaults.
type TaskRequest struct {
	Name            string       `json:"name"`
	Mode            string       `json:"mode"`     // sum-key
	Preset          string       `json:"preset"`   // the one with the fewest bytes
	Bits            uint32       `json:"bits"`     // 16
	Rounding        string       `json:"rounding"` // stochastic
	Encoding        string       `json:"encoding"` // lanes
	Ranges          string       `json:"ranges"`   // negotiated, or fixed if a tensor has one
	Layout          []TensorSpec `json:"layout"`
	WeightCap       uint32       `json:"weight_cap"` // 1000
	Metrics         []string     `json:"metrics"`    // loss
	Members         []MemberSpec `json:"members"`
	MaxClients      uint32       `json:"max_clients"` // all members
	MinCohort       uint32       `json:"min_cohort"`  // the key service's floor
	Fraction        *float64     `json:"fraction"`    // 0.8 of the depositors
	PerOrganisation uint32       `json:"per_organisation"`
	Deadline        uint32       `json:"deadline"` // seconds; 600
	Rounds          uint32       `json:"rounds"`   // 10
	// Privacy makes means differentially private. Rounding is nearest, ranges
	// are fixed and follow from the clip norm, weight_cap is 1 and there are
	// no metrics then.
	Privacy *PrivacySpec `json:"privacy"`
}

// PrivacySpec is what an admin chooses of a private task.
type PrivacySpec struct {
	ClipNorm        float64 `json:"clip_norm"`        // largest L2 norm of an update
	NoiseMultiplier float64 `json:"noise_multiplier"` // noise of the sum over the clip norm
	Delta           float64 `json:"delta"`
	Colluding       *uint32 `json:"colluding"` // clients whose noise is not counted on; 1
}

// TensorSpec is one tensor of the layout.
type TensorSpec struct {
	Name  string   `json:"name"`
	Shape []uint64 `json:"shape"`
	Range float32  `json:"range"` // of fixed ranges; 1
	// Precise tensors span magnitudes and travel in several digits.
	Precise bool `json:"precise"`
	// NonNegative tensors, such as variances, never become negative.
	NonNegative bool `json:"nonnegative"`
}

// MemberSpec is one enrolled client. Organisation defaults to the name.
type MemberSpec struct {
	Name         string `json:"name"`
	Organisation string `json:"organisation"`
}

// Defaults of a task.
const (
	defaultBits      = 16
	defaultWeightCap = 1000
	defaultPermille  = 800
	defaultDeadline  = 600
	defaultRounds    = 10
	defaultRange     = 1
	defaultMetric    = "loss"
	defaultColluding = 1
)

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// build completes a request with what the services say of themselves.
func (q *TaskRequest) build(aggregator, kms *pb.ServiceInfo) (*task.Task, error) {
	if q.Privacy != nil {
		q = q.private()
	}
	t := &task.Task{
		Name: q.Name, Preset: q.Preset, Bits: or(q.Bits, defaultBits), WeightCap: or(q.WeightCap, defaultWeightCap),
		MaxClients: or(q.MaxClients, uint32(len(q.Members))), MinCohort: or(q.MinCohort, max(kms.Floor, 2)),
		Permille: defaultPermille, PerOrganisation: q.PerOrganisation, Deadline: or(q.Deadline, defaultDeadline), Rounds: or(q.Rounds, defaultRounds),
	}
	var err error
	if t.Mode, err = params.ParseMode(or(q.Mode, params.SumKey.String())); err != nil {
		return nil, err
	}
	if t.Rounding, err = params.ParseRounding(or(q.Rounding, params.Stochastic.String())); err != nil {
		return nil, err
	}
	if t.Encoding, err = params.ParseEncoding(or(q.Encoding, params.Lanes.String())); err != nil {
		return nil, err
	}
	if q.Fraction != nil {
		if !(*q.Fraction >= 0 && *q.Fraction <= 1) {
			return nil, fmt.Errorf("fraction is %v; it lies between 0 and 1: %w", *q.Fraction, errs.ErrArgument)
		}
		t.Permille = uint32(math.Ceil(*q.Fraction * 1000))
	}
	ranges := q.Ranges
	for _, x := range q.Layout {
		if x.Range != 0 {
			ranges = or(ranges, task.RangesFixed.String())
		}
		if x.Range != 0 && q.Privacy != nil {
			return nil, fmt.Errorf("tensor %q has a range; with privacy ranges follow from the clip norm: %w", x.Name, errs.ErrArgument)
		}
		t.Layout = append(t.Layout, task.Tensor{
			Name: x.Name, Shape: x.Shape, Range: or(x.Range, defaultRange), Precise: x.Precise, NonNegative: x.NonNegative,
		})
	}
	if t.Ranges, err = task.ParseRanges(or(ranges, task.RangesNegotiated.String())); err != nil {
		return nil, err
	}
	if t.Metrics = slices.Sorted(slices.Values(q.Metrics)); q.Metrics == nil {
		t.Metrics = []string{defaultMetric}
	}
	if q.Privacy != nil {
		if err := promised(t, q.Privacy); err != nil {
			return nil, err
		}
	}
	for _, m := range q.Members {
		t.Members = append(t.Members, task.Member{Name: m.Name, Organisation: or(m.Organisation, m.Name)})
	}
	if len(aggregator.SigningKey) != len(t.Aggregator) || len(kms.SigningKey) != len(t.KMS) {
		return nil, fmt.Errorf("a service names no signing key: %w", errs.ErrSignature)
	}
	t.Aggregator, t.KMS = task.Key(aggregator.SigningKey), task.Key(kms.SigningKey)
	if _, err := rand.Read(t.Nonce[:]); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", errs.ErrInternal)
	}
	if t.Preset == "" {
		t.Preset, err = smallest(t)
	}
	return t, err
}

// private is the request with the defaults of a private task.
func (q TaskRequest) private() *TaskRequest {
	q.Rounding = or(q.Rounding, params.NearestEven.String())
	q.WeightCap = or(q.WeightCap, 1)
	q.Ranges = or(q.Ranges, task.RangesFixed.String())
	if q.Metrics == nil {
		q.Metrics = []string{}
	}
	return &q
}

// Promise is what was chosen, nil without.
func (s *PrivacySpec) Promise() *privacy.Promise {
	if s == nil {
		return nil
	}
	p := &privacy.Promise{Clip: s.ClipNorm, Multiplier: s.NoiseMultiplier, Delta: s.Delta, Colluding: defaultColluding}
	if s.Colluding != nil {
		p.Colluding = *s.Colluding
	}
	return p
}

// promised completes a task's promise and gives its tensors the range that
// follows from it.
func promised(t *task.Task, s *PrivacySpec) error {
	p, err := privacy.Derive(*s.Promise(), t.Bits, t.Layout.Values(), t.MinCohort)
	if err != nil {
		return err
	}
	t.Privacy = &p
	for i := range t.Layout {
		t.Layout[i].Range = p.Range(t.Bits)
	}
	return nil
}

// smallest is the preset whose contributions have the fewest bytes.
func smallest(t *task.Task) (best string, err error) {
	least := int64(math.MaxInt64)
	for _, p := range params.Presets() {
		u := *t
		u.Preset = p.Name
		size := int64(0)
		for _, kind := range []task.Kind{task.KindValues, t.Ranges.First()} {
			shape, bad := u.Shape(kind)
			if bad != nil {
				err, size = bad, math.MaxInt64
				break
			}
			g, bad := shape.Geometry(task.Digest{})
			if bad != nil {
				err, size = bad, math.MaxInt64
				break
			}
			size += g.Size()
		}
		if size < least {
			best, least = p.Name, size
		}
	}
	if best == "" {
		return "", err
	}
	return best, nil
}

// modelPart is the size of one message of a model.
const modelPart = 256 << 10

// CreateTask signs a task and gives it to both services, with the first
// model's values in layout order. Doing it again after a failure needs a new
// name or the same services' state: a task once accepted stands.
func (a *Admin) CreateTask(ctx context.Context, q TaskRequest, model []float32) (*task.Task, error) {
	if a.signing == nil {
		return nil, fmt.Errorf("creating a task needs signing_key in the profile: %w", errs.ErrConfig)
	}
	aggregator, err := a.Rounds.Info(ctx, &pb.Empty{})
	if err != nil {
		return nil, rpc.FromStatus(err, "aggregator")
	}
	kms, err := a.Keys.Info(ctx, &pb.Empty{})
	if err != nil {
		return nil, rpc.FromStatus(err, "key service")
	}
	t, err := q.build(aggregator, kms)
	if err != nil {
		return nil, err
	}
	if n := t.Layout.Values(); int64(len(model)) != n {
		return nil, fmt.Errorf("a first model of %d values for a layout of %d: %w", len(model), n, errs.ErrLayout)
	}
	rest := model
	for _, tensor := range t.Layout {
		part := rest[:tensor.Count()]
		rest = rest[len(part):]
		for _, v := range part {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return nil, fmt.Errorf("tensor %q of the first model holds NaN or an infinity; a constant, such as a mask, can be left out: %w", tensor.Name, errs.ErrNotFinite)
			}
			if tensor.NonNegative && v < 0 {
				return nil, fmt.Errorf("tensor %q of the first model is to stay non-negative and holds %g; "+
					"if that is meant, take it out with nonnegative=[\"!%s\"]: %w", tensor.Name, v, tensor.Name, errs.ErrArgument)
			}
		}
	}
	t.InitialModel = task.InitialModel(task.DigestOf(t.Layout), model)
	if err := t.Check(); err != nil {
		return nil, err
	}
	object := task.Sign(t, a.signing)
	in := &pb.Signed{Object: object.Bytes, Signature: object.Signature}
	if _, err := a.Keys.CreateTask(ctx, in); err != nil {
		return nil, rpc.FromStatus(err, "key service")
	}
	if _, err := a.Rounds.CreateTask(ctx, in); err != nil {
		return nil, rpc.FromStatus(err, "aggregator")
	}
	return t, a.putModel(ctx, t.Name, model)
}

func (a *Admin) putModel(ctx context.Context, name string, model []float32) error {
	stream, err := a.Rounds.PutModel(ctx)
	if err != nil {
		return rpc.FromStatus(err, "aggregator")
	}
	part := &pb.ModelPart{Task: name}
	for len(model) > 0 && err == nil {
		n := min(len(model), modelPart/4)
		part.Values = part.Values[:0]
		for _, v := range model[:n] {
			part.Values = binary.LittleEndian.AppendUint32(part.Values, math.Float32bits(v))
		}
		model = model[n:]
		err = stream.Send(part)
		part = &pb.ModelPart{Values: part.Values}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return rpc.FromStatus(err, "aggregator")
	}
	_, err = stream.CloseAndRecv()
	return rpc.FromStatus(err, "aggregator")
}

// Log is the whole of a key service's audit log.
type Log struct {
	Name       string
	Key        task.Key
	Records    [][]byte
	Checkpoint string
}

// Audit fetches the audit log and verifies it.
func (a *Admin) Audit(ctx context.Context) (*Log, error) {
	info, err := a.Keys.Info(ctx, &pb.Empty{})
	if err != nil {
		return nil, rpc.FromStatus(err, "key service")
	}
	if len(info.SigningKey) != len(task.Key{}) {
		return nil, fmt.Errorf("the key service names no signing key: %w", errs.ErrAudit)
	}
	l := &Log{Name: info.Name, Key: task.Key(info.SigningKey)}
	for {
		reply, err := a.Keys.Audit(ctx, &pb.AuditRequest{From: int64(len(l.Records))})
		if err != nil {
			return nil, rpc.FromStatus(err, "key service")
		}
		l.Records, l.Checkpoint = append(l.Records, reply.Records...), reply.Checkpoint
		c, err := audit.Open(l.Checkpoint, l.Name, l.Key[:])
		if err != nil {
			return nil, err
		}
		if int64(len(l.Records)) >= c.Size {
			l.Records = l.Records[:c.Size]
			return l, c.Verify(l.Records)
		}
		if len(reply.Records) == 0 {
			return nil, fmt.Errorf("the log ends after %d of %d records: %w", len(l.Records), c.Size, errs.ErrAudit)
		}
	}
}

// Skew is how far a service's clock is from this machine's.
func Skew(info *pb.ServiceInfo, now time.Time) time.Duration {
	return time.UnixMilli(info.UnixMillis).Sub(now)
}
