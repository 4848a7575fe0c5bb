package service_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/service"
	"github.com/cryptflow/cryptflow/go/task"
)

// breaking is an aggregator's client that fails where a test wants it to.
type breaking struct {
	pb.AggregatorServiceClient
	create func() error // before the task is given to the aggregator
	put    func() error // before its model is
}

func (b *breaking) CreateTask(ctx context.Context, in *pb.Signed, o ...grpc.CallOption) (*pb.TaskStatus, error) {
	if b.create != nil {
		if err := b.create(); err != nil {
			return nil, err
		}
	}
	return b.AggregatorServiceClient.CreateTask(ctx, in, o...)
}

type parts = grpc.ClientStreamingClient[pb.ModelPart, pb.Empty]

func (b *breaking) PutModel(ctx context.Context, o ...grpc.CallOption) (parts, error) {
	if b.put != nil {
		if err := b.put(); err != nil {
			return nil, err
		}
	}
	return b.AggregatorServiceClient.PutModel(ctx, o...)
}

func creation(t *testing.T, w *world) (client.TaskRequest, []float32) {
	t.Helper()
	layout := []client.TensorSpec{{Name: "a", Shape: []uint64{100_000}}}
	q := client.TaskRequest{Name: "t", Ranges: "fixed", Rounds: 1, Layout: layout}
	for i := range w.Clients {
		q.Members = append(q.Members, client.MemberSpec{Name: service.ClientName(i)})
	}
	model := make([]float32, 100_000)
	model[7] = 7
	return q, model
}

func (w *world) dial(t *testing.T, i int) (*client.Client, error) {
	t.Helper()
	p, err := config.LoadProfile(w.Clients[i])
	if err != nil {
		t.Fatal(err)
	}
	x, err := client.Dial(t.Context(), p, "", 1)
	if err == nil {
		t.Cleanup(func() { _ = x.Close() })
	}
	return x, err
}

func (w *world) status(t *testing.T) *pb.TaskStatus {
	t.Helper()
	s, err := w.admin(t).Rounds.GetTask(t.Context(), &pb.TaskName{Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// allStartFrom demands that every client gets the model, and that a round of
// all of them ends well.
func (w *world) allStartFrom(t *testing.T, model []float32) {
	t.Helper()
	together(t, 3, func(i int) error {
		x, err := w.dial(t, i)
		if err != nil {
			return err
		}
		got, mean := make([]float32, len(model)), make([]float32, len(model))
		if ok, err := x.InitialModel(t.Context(), got); err != nil || !ok || got[7] != model[7] {
			t.Errorf("client %d: %v, %v, value %g", i, ok, err, got[7])
		}
		_, err = x.Average(t.Context(), client.Update{Values: make([]float32, len(model)), Examples: 1}, mean, quiet)
		return err
	})
}

// Creation is interrupted after every step, and done again with the same
// request: until it is finished no client starts, and then all start from its
// model.
func TestAnInterruptedCreationGoesOn(t *testing.T) {
	for _, step := range []string{"the task at the aggregator", "its model"} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t, 3, 3)
			q, model := creation(t, w)
			a := w.admin(t)
			ctx, interrupt := context.WithCancel(t.Context())
			b := &breaking{AggregatorServiceClient: a.Rounds}
			stop := func() error { interrupt(); return context.Canceled }
			if b.put = stop; step != "its model" {
				b.create = stop
			}
			a.Rounds = b
			if _, err := a.CreateTask(ctx, q, model); err == nil || !strings.Contains(err.Error(), "create it again") {
				t.Fatalf("interrupted: %v", err)
			}
			if _, err := w.dial(t, 0); !errors.Is(err, errs.ErrTaskCreating) {
				t.Fatalf("a client in between: %v", err)
			}
			b.create, b.put = nil, nil
			other := append([]float32(nil), model...)
			other[0]++
			changed := q
			changed.Rounds++
			for what, err := range map[string]error{
				"another model":   second(a.CreateTask(t.Context(), q, other)),
				"another request": second(a.CreateTask(t.Context(), changed, model)),
			} {
				if !errors.Is(err, errs.ErrTaskExists) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if _, err := w.dial(t, 0); !errors.Is(err, errs.ErrTaskCreating) {
				t.Fatalf("a client after refusals: %v", err)
			}
			if _, err := a.CreateTask(t.Context(), q, model); err != nil {
				t.Fatal(err)
			}
			w.allStartFrom(t, model)
			if _, err := a.CreateTask(t.Context(), q, model); !errors.Is(err, errs.ErrTaskExists) {
				t.Fatalf("once complete: %v", err)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// A round that waits for its model says so, and stays closed through a restart.
func TestNoRoundOpensBeforeTheModelIsThere(t *testing.T) {
	w := newWorld(t, 3, 3)
	q, model := creation(t, w)
	a := w.admin(t)
	b := &breaking{AggregatorServiceClient: a.Rounds, put: func() error { return io.ErrUnexpectedEOF }}
	a.Rounds = b
	if _, err := a.CreateTask(t.Context(), q, model); err == nil {
		t.Fatal("no error")
	}
	for range 2 {
		if s := w.status(t); !client.WaitsForModel(s) || s.Round.State != pb.RoundState_CREATED {
			t.Fatalf("%v", s.Round)
		}
		if err := w.aggregator.Close(); err != nil {
			t.Fatal(err)
		}
		w.startAggregator(t)
	}
	b.put = nil
	b.AggregatorServiceClient = w.admin(t).Rounds
	if _, err := a.CreateTask(t.Context(), q, model); err != nil {
		t.Fatal(err)
	}
	w.allStartFrom(t, model)
}

// A client that connects while the model is on its way waits for it.
func TestAClientWaitsWhileTheModelArrives(t *testing.T) {
	w := newWorld(t, 3, 3)
	q, model := creation(t, w)
	a := w.admin(t)
	b := &breaking{AggregatorServiceClient: a.Rounds, put: func() error { return io.ErrUnexpectedEOF }}
	a.Rounds = b
	if _, err := a.CreateTask(t.Context(), q, model); err == nil {
		t.Fatal("no error")
	}
	// The first part is there: the aggregator knows that a model comes.
	stream, err := b.AggregatorServiceClient.PutModel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 4*len(model))
	raw[4*7+2], raw[4*7+3] = 0xe0, 0x40 // 7 as float32
	if err := stream.Send(&pb.ModelPart{Task: "t", Values: raw[:1000]}); err != nil {
		t.Fatal(err)
	}
	// Until it has read that part it may say that nothing comes.
	came := make(chan error, 1)
	go func() {
		_, err := w.dial(t, 0)
		for errors.Is(err, errs.ErrTaskCreating) {
			_, err = w.dial(t, 0)
		}
		came <- err
	}()
	if err := stream.Send(&pb.ModelPart{Values: raw[1000:]}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	if err := <-came; err != nil {
		t.Fatal(err)
	}
	w.allStartFrom(t, model)
}

func TestAFullDiskDelaysACreation(t *testing.T) {
	w := newWorld(t, 3, 3)
	q, model := creation(t, w)
	restart := func(reserve int64) {
		t.Helper()
		if err := w.aggregator.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := config.LoadAggregator(w.Aggregator)
		if err != nil {
			t.Fatal(err)
		}
		c.ReserveMiB = reserve
		if w.aggregator, err = service.StartAggregator(c, "test", w.log); err != nil {
			t.Fatal(err)
		}
	}
	restart(1 << 30)
	_, err := w.admin(t).CreateTask(t.Context(), q, model)
	if !errors.Is(err, errs.ErrDiskFull) || !strings.Contains(err.Error(), "create it again") {
		t.Fatalf("on a full disk: %v", err)
	}
	if _, err := w.dial(t, 0); !errors.Is(err, errs.ErrTaskCreating) {
		t.Fatalf("a client: %v", err)
	}
	restart(0)
	if _, err := w.admin(t).CreateTask(t.Context(), q, model); err != nil {
		t.Fatal(err)
	}
	w.allStartFrom(t, model)
}

// Where every client brings the model, the digest decides who starts.
func TestClientsThatBringTheModelProveIt(t *testing.T) {
	w := newWorld(t, 3, 3)
	q, model := creation(t, w)
	q.InitialModel = "clients"
	if _, err := w.admin(t).CreateTask(t.Context(), q, model); err != nil {
		t.Fatal(err)
	}
	if s := w.status(t); s.HasModel || client.WaitsForModel(s) {
		t.Fatalf("%v", s)
	}
	other := append([]float32(nil), model...)
	other[99_999] = 1e-30
	together(t, 3, func(i int) error {
		x, err := w.dial(t, i)
		if err != nil {
			return err
		}
		mine := append([]float32(nil), model...)
		ok, err := x.InitialModel(t.Context(), make([]float32, len(model)))
		if err != nil || ok {
			t.Errorf("a model from nowhere: %v, %v", ok, err)
		}
		u, mean := client.Update{Values: make([]float32, len(model)), Examples: 1}, make([]float32, len(model))
		if _, err := x.Average(t.Context(), u, mean, quiet); !errors.Is(err, errs.ErrModelMismatch) {
			t.Errorf("without proof: %v", err)
		}
		digest := func(v []float32) string { return task.InitialModel(task.DigestOf(x.Task().Layout), v).Short() }
		err = x.HoldsInitialModel(other)
		named := err != nil && strings.Contains(err.Error(), digest(model)) && strings.Contains(err.Error(), digest(other))
		if !errors.Is(err, errs.ErrModelMismatch) || !named {
			t.Errorf("other weights: %v", err)
		}
		if _, err := x.Average(t.Context(), u, mean, quiet); !errors.Is(err, errs.ErrModelMismatch) {
			t.Errorf("after other weights: %v", err)
		}
		if err := x.HoldsInitialModel(mine); err != nil {
			return err
		}
		_, err = x.Average(t.Context(), u, mean, quiet)
		return err
	})
}

// liar answers as an aggregator with the house's certificate and passes on
// what it does not lie about.
type liar struct {
	pb.UnimplementedAggregatorServiceServer
	truth pb.AggregatorServiceClient
}

func (l *liar) GetTask(ctx context.Context, in *pb.TaskName) (*pb.TaskStatus, error) {
	s, err := l.truth.GetTask(ctx, in)
	if err == nil {
		s.HasModel = false
	}
	return s, err
}

func (l *liar) AwaitRound(ctx context.Context, in *pb.AwaitRequest) (*pb.RoundStatus, error) {
	return l.truth.AwaitRound(ctx, in)
}

// An aggregator that says that it keeps no model makes nobody start from
// another one.
func TestALyingAggregatorMakesNobodyStartFromOtherWeights(t *testing.T) {
	w := newWorld(t, 3, 3)
	q, model := creation(t, w)
	if _, err := w.admin(t).CreateTask(t.Context(), q, model); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadAggregator(w.Aggregator)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := c.Credentials.Load(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(creds, rpc.AggregatorTable(), rpc.DefaultLimits(), w.log, func(string, string, time.Duration) {}, nil)
	pb.RegisterAggregatorServiceServer(s, &liar{truth: w.admin(t).Rounds})
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	p, err := config.LoadProfile(w.Clients[0])
	if err != nil {
		t.Fatal(err)
	}
	p.Aggregator = listener.Addr().String()
	x, err := client.Dial(t.Context(), p, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	own := make([]float32, len(model)) // what this client happens to hold
	if ok, err := x.InitialModel(t.Context(), make([]float32, len(model))); err != nil || ok {
		t.Fatalf("%v, %v", ok, err)
	}
	if err := x.HoldsInitialModel(own); !errors.Is(err, errs.ErrModelMismatch) {
		t.Fatalf("other weights: %v", err)
	}
	u := client.Update{Values: make([]float32, len(model)), Examples: 1}
	if _, err := x.Average(t.Context(), u, make([]float32, len(model)), quiet); !errors.Is(err, errs.ErrModelMismatch) {
		t.Fatalf("an update from other weights: %v", err)
	}
}
