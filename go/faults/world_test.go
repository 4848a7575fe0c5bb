package faults

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/service"
)

// command is the built program.
var command string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "cryptflow-faults-")
	if err != nil {
		panic(err)
	}
	command = filepath.Join(folder, "cryptflow")
	build := exec.Command("go", "build", "-o", command, "github.com/cryptflow/cryptflow/go/cmd/cryptflow")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("building the command: %v\n%s", err, out))
	}
	code := m.Run()
	_ = os.RemoveAll(folder) // a temporary folder
	os.Exit(code)
}

// world is a house whose services are processes that can be killed.
type world struct {
	*service.House
	mu       sync.Mutex
	children map[string]*exec.Cmd
	log      bytes.Buffer
	kills    int
}

func newWorld(t *testing.T, clients int) *world {
	t.Helper()
	h, err := service.OpenHouse(filepath.Join(t.TempDir(), "house"), service.Plan{Clients: clients, Floor: 2, Log: "info", Task: "t"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{House: h, children: map[string]*exec.Cmd{}}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, c := range w.children {
			_ = c.Process.Kill() // it may be dead
			_ = c.Wait()
		}
		if t.Failed() {
			t.Logf("services said:\n%s", w.log.String())
		}
	})
	for _, name := range []string{"kms", "aggregator"} {
		if err := w.start(name); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// locked keeps the log whole: both services write to it.
type locked struct{ w *world }

func (l locked) Write(b []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.log.Write(b)
}

func (w *world) start(name string) error {
	file := w.KMS
	if name == "aggregator" {
		file = w.Aggregator
	}
	c := exec.Command(command, name, "--config", file)
	c.Stderr = locked{w}
	if err := c.Start(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.children[name] = c
	return nil
}

// kill ends a service without a warning and starts it again.
func (w *world) kill(name string) error {
	w.mu.Lock()
	c := w.children[name]
	w.kills++
	w.mu.Unlock()
	if err := c.Process.Kill(); err != nil {
		return err
	}
	_ = c.Wait() // it was killed
	return w.start(name)
}

// admin waits until both services answer.
func (w *world) admin(t *testing.T) *client.Admin {
	t.Helper()
	p, err := config.LoadProfile(w.Admin)
	if err != nil {
		t.Fatal(err)
	}
	a, err := client.AdminOf(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, ask := range []func() error{
		func() error { _, err := a.Rounds.Info(ctx, &pb.Empty{}); return err },
		func() error { _, err := a.Keys.Info(ctx, &pb.Empty{}); return err },
	} {
		for err := ask(); err != nil; err = ask() {
			if ctx.Err() != nil {
				t.Fatalf("the services do not come up: %v", err)
			}
		}
	}
	return a
}

func (w *world) create(t *testing.T, q client.TaskRequest, values int) {
	t.Helper()
	q.Name = "t"
	q.Layout = []client.TensorSpec{{Name: "w", Shape: []uint64{uint64(values)}}}
	for i := range w.Clients {
		q.Members = append(q.Members, client.MemberSpec{Name: service.ClientName(i)})
	}
	if q.Ranges == "" {
		q.Ranges = "fixed"
	}
	if _, err := w.admin(t).CreateTask(t.Context(), q, make([]float32, values)); err != nil {
		t.Fatal(err)
	}
}

func (w *world) client(t *testing.T, i int) *client.Client {
	t.Helper()
	p, err := config.LoadProfile(w.Clients[i])
	if err != nil {
		t.Fatal(err)
	}
	x, err := client.Dial(t.Context(), p, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x
}

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q; set a positive number", name, text)
	}
	return n
}
