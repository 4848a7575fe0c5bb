package service_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// before runs a function before calls of a method.
func before(method string, f func() error) grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(
		ctx context.Context, called string, in, out any, conn *grpc.ClientConn, next grpc.UnaryInvoker, o ...grpc.CallOption,
	) error {
		if strings.HasSuffix(called, "/"+method) {
			if err := f(); err != nil {
				return err
			}
		}
		return next(ctx, called, in, out, conn, o...)
	})
}

func (w *world) small(t *testing.T, rounds uint32) {
	t.Helper()
	w.create(t, client.TaskRequest{
		Rounds: rounds, Deadline: 3600, Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{10}}},
	}, make([]float32, 10))
}

func update() client.Update { return client.Update{Values: make([]float32, 10), Examples: 1} }

// TestARoundThatTheKeyServiceAbortsIsFollowed by the next, also when nobody had
// committed to it, so that no deadline brings its end to light.
func TestARoundThatTheKeyServiceAbortsIsFollowed(t *testing.T) {
	w := newWorld(t, 3, 3)
	w.small(t, 1)
	first := w.member(t, 0, "t")
	r, err := first.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	p, err := config.LoadProfile(w.Admin)
	if err != nil {
		t.Fatal(err)
	}
	signing, err := identity.OpenSigning(p.SigningKey, false)
	if err != nil {
		t.Fatal(err)
	}
	request := &task.AbortRequest{Task: r.Spec.Task, Round: r.Spec.Round, Spec: r.Digest, Reason: "test"}
	if _, err := w.admin(t).Keys.Abort(t.Context(), &pb.AbortRound{
		Spec: r.Digest[:], Reason: "test", Signature: task.Sign(request, signing).Signature,
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	together(t, 3, func(i int) error {
		x := w.member(t, i, "t")
		defer x.Close()
		report, err := x.Average(ctx, update(), make([]float32, 10), quiet)
		if err == nil && report.Attempts > 2 {
			err = fmt.Errorf("%d attempts at a round that is over", report.Attempts)
		}
		return err
	})
}

// TestALostRoundEndsItsTask: clients that wait for it are told, and may not
// contribute again; the aggregator stops asking.
func TestALostRoundEndsItsTask(t *testing.T) {
	w := newWorld(t, 3, 3)
	w.small(t, 2)
	lose := func() error {
		keys, err := filepath.Glob(filepath.Join(filepath.Dir(w.KMS), "data", "keys", "*.key"))
		if err != nil || len(keys) != 1 {
			return fmt.Errorf("keys %q: %v", keys, err)
		}
		return os.Remove(keys[0])
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	committed := make(chan struct{}, 2)
	together(t, 3, func(i int) error {
		var options []grpc.DialOption
		if i == 2 {
			options = append(options, before("Commit", sync.OnceValue(func() error {
				<-committed
				<-committed
				return lose()
			})))
		}
		x := w.member(t, i, "t", options...)
		defer x.Close()
		c, _, err := x.Give(ctx, update(), quiet)
		if err != nil {
			return err
		}
		committed <- struct{}{}
		if _, err = x.Collect(ctx, c, make([]float32, 10), quiet); !errors.Is(err, errs.ErrLost) {
			return fmt.Errorf("a lost round gave %v", err)
		}
		if again, _, err := x.Give(ctx, update(), quiet); err == nil && again != c {
			return errors.New("a contribution that may have been released was given up")
		}
		return nil
	})
	status, err := w.admin(t).Rounds.GetTask(t.Context(), &pb.TaskName{Name: "t"})
	if err != nil || !strings.Contains(status.Ended, "the admin creates a new task") {
		t.Fatalf("the task goes on: %q, %v", status.GetEnded(), err)
	}
}

// TestNobodyAppliesWhatTheKeyServiceWasNotTold: the others may have said that the
// sum does not open.
func TestNobodyAppliesWhatTheKeyServiceWasNotTold(t *testing.T) {
	w := newWorld(t, 3, 3)
	w.small(t, 1)
	var away atomic.Bool
	away.Store(true)
	together(t, 3, func(i int) error {
		var options []grpc.DialOption
		if i == 0 {
			options = append(options, before("ReportResult", func() error {
				if away.Load() {
					return status.Error(codes.Unavailable, "away")
				}
				return nil
			}))
		}
		x, err := w.impatient(i, options...)
		if err != nil {
			return err
		}
		defer x.Close()
		c, _, err := x.Give(t.Context(), update(), quiet)
		if err != nil {
			return err
		}
		if i != 0 {
			_, err := x.Collect(t.Context(), c, make([]float32, 10), quiet)
			return err
		}
		if _, err := x.Collect(t.Context(), c, make([]float32, 10), quiet); err == nil {
			return errors.New("it was applied unreported")
		}
		away.Store(false)
		_, err = x.Collect(t.Context(), c, make([]float32, 10), quiet)
		return err
	})
}

// impatient is a client that gives up early on a service that is away, and on the
// others' reports.
func (w *world) impatient(i int, options ...grpc.DialOption) (*client.Client, error) {
	p, err := config.LoadProfile(w.Clients[i])
	if err != nil {
		return nil, err
	}
	c, err := p.Credentials.Load(time.Now())
	if err != nil {
		return nil, err
	}
	admin, err := config.ParseKey(p.AdminKey)
	if err != nil {
		return nil, err
	}
	return client.Connect(context.Background(), client.Config{
		Aggregator: p.Aggregator, KMS: p.KMS, Task: "t", Credentials: c, Admin: admin, Threads: 1,
		Patience: 5 * time.Second, Dial: options,
	})
}
