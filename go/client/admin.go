package client

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
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
	MinCohort       uint32       `json:"min_cohort"`  // half of the members, the key service's floor at least
	Fraction        *float64     `json:"fraction"`    // 0.8 of those who announced
	PerOrganisation uint32       `json:"per_organisation"`
	Trim            uint32       `json:"trim"` // largest claims on a range that are ignored; none
	// Canaries is the number of coefficients of each contribution by which the
	// key service finds one that is not under its deposited key: 8 in sum-key
	// and none in shared-key, where the round has one key for all.
	Canaries *uint32 `json:"canaries"`
	Deadline uint32  `json:"deadline"` // seconds; 600
	Rounds   uint32  `json:"rounds"`   // 10
	// InitialModel says who keeps the first model: stored, at the aggregator,
	// or clients, each of which brings it. Its digest is signed either way.
	InitialModel string `json:"initial_model"` // stored
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
		MaxClients: or(q.MaxClients, uint32(len(q.Members))), MinCohort: q.MinCohort,
		Permille: defaultPermille, PerOrganisation: q.PerOrganisation, Trim: q.Trim, Deadline: or(q.Deadline, defaultDeadline), Rounds: or(q.Rounds, defaultRounds),
	}
	if t.MinCohort == 0 {
		t.MinCohort = max(kms.Floor, 2, min(uint32(len(q.Members)+1)/2, t.MaxClients))
	}
	var err error
	if t.Mode, err = params.ParseMode(or(q.Mode, params.SumKey.String())); err != nil {
		return nil, err
	}
	if q.Canaries != nil {
		t.Canaries = *q.Canaries
	} else if t.Mode == params.SumKey {
		t.Canaries = params.DefaultCanaries
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
