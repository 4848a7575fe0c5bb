package attacks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

func quiet(client.Phase, int64, int64) {}

// member is client i of a task, with a patience of its own and calls that a test
// may bend.
func (w *world) member(t *testing.T, name string, i int, patience time.Duration, options ...grpc.DialOption) *client.Client {
	t.Helper()
	p, err := config.LoadProfile(w.Clients[i])
	if err != nil {
		t.Fatal(err)
	}
	creds, err := p.Credentials.Load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	admin, err := config.ParseKey(p.AdminKey)
	if err != nil {
		t.Fatal(err)
	}
	x, err := client.Connect(t.Context(), client.Config{
		Aggregator: p.Aggregator, KMS: p.KMS, Task: name, Credentials: creds, Admin: admin, Threads: 1, Patience: patience, Dial: options,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x
}

// bent returns options under which unary calls pass through a test's hands.
func bent(bend func(method string, in, out any, call func() error) error) []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(func(
		ctx context.Context, method string, in, out any, conn *grpc.ClientConn, next grpc.UnaryInvoker, o ...grpc.CallOption,
	) error {
		return bend(method[strings.LastIndex(method, "/")+1:], in, out, func() error { return next(ctx, method, in, out, conn, o...) })
	})}
}

// TestAnAggregatorSaysThatTheRoundWasAborted, in its states and as an error, of
// every call: the client believes the key service alone. It never contributes the
// update a second time, and opens the round once the aggregator stops lying.
func TestAnAggregatorSaysThatTheRoundWasAborted(t *testing.T) {
	const values = 100
	w := newWorld(t, 3)
	for _, code := range []error{errs.ErrAborted, errs.ErrNotInCohort, errs.ErrDecided, errs.ErrKeysDestroyed, errs.ErrFailed} {
		for _, method := range []string{"AwaitRound", "GetResult", "Commit", "state"} {
			name := fmt.Sprintf("t-%s-%s", strings.ToLower(method), strings.ToLower(errs.Find(code).Code))
			name = strings.ReplaceAll(name, "_", "-")
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w.create(t, name, 0, 3, values, 2)
				var lies, awaiting atomic.Bool
				lies.Store(true)
				x := w.member(t, name, 0, time.Second, bent(func(called string, _, out any, call func() error) error {
					if !lies.Load() || !awaiting.Load() {
						return call()
					}
					if called == method {
						return rpc.ToStatus(fmt.Errorf("so says the aggregator: %w", code))
					}
					err := call()
					if status, ok := out.(*pb.RoundStatus); ok && err == nil && method == "state" {
						status.State = pb.RoundState_ABORTED
					}
					return err
				})...)
				update, mean := make([]float32, values), make([]float32, values)
				for j := range update {
					update[j] = 1. / 16
				}
				u := client.Update{Values: update, Examples: 1}
				r, err := x.Open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var others sync.WaitGroup
				for i := 1; i < 3; i++ {
					others.Go(func() {
						honest := w.member(t, name, i, time.Minute)
						theirs := make([]float32, values)
						for j := range theirs {
							theirs[j] = float32(i+1) / 16
						}
						if _, err := honest.Average(t.Context(), client.Update{Values: theirs, Examples: 1}, make([]float32, values), quiet); err != nil {
							t.Errorf("client %d: %v", i, err)
						}
					})
				}
				awaiting.Store(true)
				c, err := x.Contribute(t.Context(), r, u, quiet)
				if err == nil {
					_, err = x.Collect(t.Context(), c, mean, quiet)
				}
				for _, statement := range []error{errs.ErrAborted, errs.ErrNotInCohort, errs.ErrDecided, errs.ErrKeysDestroyed, errs.ErrFailed} {
					if errors.Is(err, statement) {
						t.Fatalf("the aggregator's word became a fact: %v", err)
					}
				}
				if !errors.Is(err, errs.ErrUnavailable) || !strings.Contains(err.Error(), "the aggregator says") {
					t.Fatalf("the aggregator's word is not quoted: %v", err)
				}
				// The contribution that may count is taken up again, not a new one.
				lies.Store(false)
				again, resumed, err := x.Give(t.Context(), u, quiet)
				if err != nil || !resumed || again.Round.Spec.Round != r.Spec.Round {
					t.Fatalf("another contribution was made (resumed: %t): %v", resumed, err)
				}
				report, err := x.Collect(t.Context(), again, mean, quiet)
				if err != nil || report.Cohort != 3 || report.Round != 0 {
					t.Fatalf("%+v, %v", report, err)
				}
				others.Wait()
			})
		}
	}
}

// spec is a round's specification as client i sees it.
func (w *world) spec(t *testing.T, i int, name string, n uint32) (*task.RoundSpec, error) {
	a := w.attacker(t, w.Clients[i], nil)
	reply, err := a.keys.GetSpec(metadata.NewOutgoingContext(t.Context(), nil), &pb.SpecRequest{Task: name, Round: n})
	if err != nil {
		return nil, err
	}
	return task.ParseRoundSpec(reply.Spec.Object)
}

// TestAServiceThatNeverAnswersIsGivenUp: a patience of seconds is kept although
// the connection stands and every call is taken.
func TestAServiceThatNeverAnswersIsGivenUp(t *testing.T) {
	const values = 100
	w := newWorld(t, 3)
	w.create(t, "t", 0, 3, values, 1)
	for _, silent := range []string{"AwaitRound", "GetSpec", "Announce", "BeginUpload", "Deposit", "Commit"} {
		t.Run(silent, func(t *testing.T) {
			t.Parallel()
			var answers atomic.Bool
			x := w.member(t, "t", 0, time.Second, grpc.WithChainUnaryInterceptor(func(
				ctx context.Context, method string, in, out any, conn *grpc.ClientConn, next grpc.UnaryInvoker, o ...grpc.CallOption,
			) error {
				if strings.HasSuffix(method, "/"+silent) && !answers.Load() {
					<-ctx.Done() // the service took the call and is silent
					return rpc.ToStatus(ctx.Err())
				}
				return next(ctx, method, in, out, conn, o...)
			}))
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			_, _, err := x.Give(ctx, client.Update{Values: make([]float32, values), Examples: 1}, quiet)
			if ctx.Err() != nil || !errors.Is(err, errs.ErrTimeout) {
				t.Fatalf("a client waits for ever: %v", err)
			}
		})
	}
}
