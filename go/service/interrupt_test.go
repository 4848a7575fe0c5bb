package service_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/service"
)

// cutter ends a client's operation at one step of its way, once. A step is a
// unary call, the beginning of a stream, or one message of a stream.
type cutter struct {
	at    int64 // which step
	after bool  // when its reply is there, which nobody gets to see; else before it is taken
	step  atomic.Int64
	where string // what was cut
}

type operationKey struct{}

var errCut = status.Error(codes.Canceled, "cut by the test")

// operation is a context that a cutter can end.
func operation(parent context.Context) context.Context {
	ctx, cancel := context.WithCancel(parent)
	return context.WithValue(ctx, operationKey{}, cancel)
}

// do takes a step, or ends the operation before it or after it.
func (c *cutter) do(ctx context.Context, what string, step func() error) error {
	cancel, ok := ctx.Value(operationKey{}).(context.CancelFunc)
	if !ok || c.step.Add(1) != c.at {
		return step()
	}
	c.where = what
	defer cancel()
	if c.after {
		if err := step(); err != nil {
			return err
		}
	}
	return errCut
}

func (c *cutter) options() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(
			ctx context.Context, method string, in, out any, conn *grpc.ClientConn, call grpc.UnaryInvoker, o ...grpc.CallOption,
		) error {
			return c.do(ctx, method, func() error { return call(ctx, method, in, out, conn, o...) })
		}),
		grpc.WithChainStreamInterceptor(func(
			ctx context.Context, d *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, o ...grpc.CallOption,
		) (s grpc.ClientStream, err error) {
			err = c.do(ctx, method, func() error { s, err = open(ctx, d, conn, method, o...); return err })
			return &cutStream{ClientStream: s, cutter: c, method: method}, err
		}),
	}
}

type cutStream struct {
	grpc.ClientStream
	cutter *cutter
	method string
}

func (s *cutStream) SendMsg(m any) error {
	return s.cutter.do(s.Context(), s.method+" send", func() error { return s.ClientStream.SendMsg(m) })
}

func (s *cutStream) RecvMsg(m any) error {
	return s.cutter.do(s.Context(), s.method+" receive", func() error { return s.ClientStream.RecvMsg(m) })
}

// giveAndCollect is what a Python client's average does, called again and again
// until it is through.
func giveAndCollect(t *testing.T, x *client.Client, u client.Update, mean []float32) (*client.Report, error) {
	var c *client.Contribution
	for range 10 {
		ctx := operation(t.Context())
		var err error
		if c == nil {
			c, _, err = x.Give(ctx, u, quiet)
		}
		var report *client.Report
		if err == nil {
			report, err = x.Collect(ctx, c, mean, quiet)
		}
		if err == nil || !errors.Is(err, errs.ErrCancelled) {
			return report, err
		}
	}
	return nil, fmt.Errorf("still interrupted after ten calls: %w", errs.ErrCancelled)
}

// TestAClientInterruptedAtAnyStepCountsOnce cuts a client's way through its first
// update at every step, before the step and after it, and calls again. The
// contribution counts once, the same client opens the sum, and the next round
// finds it with the others' model.
func TestAClientInterruptedAtAnyStepCountsOnce(t *testing.T) {
	const n = 100
	for _, ranges := range []string{"fixed", "negotiated"} {
		t.Run(ranges, func(t *testing.T) {
			rounds := 2
			if ranges == "negotiated" {
				rounds = 1 // and the round that agrees on ranges before it
			}
			w := newWorld(t, 3, 3)
			rng := rand.New(rand.NewPCG(4, 4))
			for at, more := int64(1), true; more; at++ {
				for _, after := range []bool{false, true} {
					c := &cutter{at: at, after: after}
					name := fmt.Sprintf("t-%d-%t", at, after)
					w.create(t, client.TaskRequest{
						Name: name, Ranges: ranges, Rounds: uint32(rounds), Deadline: 60,
						Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{n}}},
					}, make([]float32, n))
					members := make([]*client.Client, 3)
					for i := range members {
						var options []grpc.DialOption
						if i == 0 {
							options = c.options()
						}
						members[i] = w.member(t, i, name, options...)
					}
					for r := range rounds {
						updates, means := make([][]float32, 3), make([][]float32, 3)
						reports := make([]*client.Report, 3)
						for i := range members {
							updates[i], means[i] = noise(rng, n), make([]float32, n)
						}
						examples := []int64{500, 600, 700}
						together(t, 3, func(i int) (err error) {
							u := client.Update{Values: updates[i], Examples: examples[i]}
							if reports[i], err = giveAndCollect(t, members[i], u, means[i]); err != nil {
								return fmt.Errorf("cut at step %d (%s, after: %t): %w", at, c.where, after, err)
							}
							return nil
						})
						c.step.Store(1 << 40) // later rounds are left alone
						checkMean(t, updates, []uint32{500, 600, 700}, means, reports[0].StatedBound)
						for i, x := range reports {
							if x.Round != uint32(r) || x.Cohort != 3 || !slices.Equal(means[i], means[0]) {
								t.Fatalf("cut at step %d (%s): report %+v", at, c.where, x)
							}
						}
					}
					for _, x := range members {
						_ = x.Close()
					}
					more = c.where != ""
				}
			}
		})
	}
}

// member is client i in the task of a name.
func (w *world) member(t *testing.T, i int, name string, options ...grpc.DialOption) *client.Client {
	t.Helper()
	p, err := config.LoadProfile(w.Clients[i])
	if err != nil {
		t.Fatal(err)
	}
	x, err := client.Dial(t.Context(), p, name, 1, options...)
	if err != nil {
		t.Fatalf("%s: %v", service.ClientName(i), err)
	}
	return x
}
