package attacks

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/service"
)

const mib = 1 << 20

// command is the built program.
var command string

func TestMain(m *testing.M) {
	if os.Getenv(bandVariable) != "" {
		os.Exit(runBand(os.Getenv(bandVariable), os.Stdin, os.Stdout))
	}
	folder, err := os.MkdirTemp("", "cryptflow-attacks-")
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

// world is a house whose services are processes.
type world struct {
	*service.House
	mu       sync.Mutex
	children map[string]*exec.Cmd
	log      bytes.Buffer // its tail
	logged   int64        // bytes in all
}

// Write takes what the services log.
func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logged += int64(len(b))
	if w.log.Len() > mib {
		w.log.Reset()
	}
	return w.log.Write(b)
}

func newWorld(t *testing.T, clients int) *world {
	t.Helper()
	h, err := service.OpenHouse(filepath.Join(t.TempDir(), "house"), service.Plan{Clients: clients, Floor: 3,
		Log: "info", Task: "t"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{House: h, children: map[string]*exec.Cmd{}}
	t.Cleanup(func() {
		for name := range w.children {
			w.stop(name)
		}
		if t.Failed() {
			t.Logf("services said:\n%s", w.said())
		}
	})
	for _, name := range []string{"kms", "aggregator"} {
		w.start(t, name)
	}
	w.admin(t)
	return w
}

func (w *world) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *world) configOf(name string) string {
	if name == "aggregator" {
		return w.Aggregator
	}
	return w.KMS
}

func (w *world) start(t *testing.T, name string) {
	t.Helper()
	c := exec.Command(command, name, "--config", w.configOf(name))
	c.Stderr = w
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	w.children[name] = c
}

func (w *world) stop(name string) {
	if c := w.children[name]; c != nil {
		_ = c.Process.Kill() // it may be dead
		_ = c.Wait()
		delete(w.children, name)
	}
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

// create makes a task of some values for the clients [from, to).
func (w *world) create(t *testing.T, name string, from, to, values int, rounds uint32) {
	t.Helper()
	q := client.TaskRequest{
		Name: name, Preset: "n4096-q102", Rounds: rounds, MinCohort: 3, Deadline: 3600, Ranges: "fixed",
		Layout: []client.TensorSpec{{Name: "w", Shape: []uint64{uint64(values)}}},
	}
	for i := from; i < to; i++ {
		q.Members = append(q.Members, client.MemberSpec{Name: service.ClientName(i)})
	}
	if _, err := w.admin(t).CreateTask(t.Context(), q, make([]float32, values)); err != nil {
		t.Fatal(err)
	}
}

// members are the clients [from, to) in a task.
func (w *world) members(t *testing.T, name string, from, to int) []*client.Client {
	t.Helper()
	var out []*client.Client
	for i := from; i < to; i++ {
		p, err := config.LoadProfile(w.Clients[i])
		if err != nil {
			t.Fatal(err)
		}
		p.Task = name
		x, err := client.Dial(t.Context(), p, "", 1)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = x.Close() })
		out = append(out, x)
	}
	return out
}

// average runs one round of clients that do what they should.
func average(t *testing.T, honest []*client.Client, values int) {
	t.Helper()
	var all sync.WaitGroup
	for i, x := range honest {
		all.Go(func() {
			update := make([]float32, values)
			for j := range update {
				update[j] = float32(i+1) / 16
			}
			mean := make([]float32, values)
			quiet := func(client.Phase, int64, int64) {}
			r, err := x.Average(t.Context(), client.Update{Values: update, Examples: 1}, mean, quiet)
			if err != nil {
				t.Errorf("honest client %d: %v", i, err)
				return
			}
			if want := float64(len(honest)+1) / 32; math.Abs(float64(mean[0])-want) > r.StatedBound+1e-7 {
				t.Errorf("honest client %d has the mean %v, want %v within %v", i, mean[0], want, r.StatedBound)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// peak is the largest resident set that a service has had.
func (w *world) peak(t *testing.T, name string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.children[name].Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Fatal("the kernel does not tell the peak")
	}
	kb, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// attacker is somebody with a certificate who does not use our client.
type attacker struct {
	profile *config.Profile
	creds   *identity.Credentials
	rounds  pb.AggregatorServiceClient
	keys    pb.KeyServiceClient
	sums    *grpc.ClientConn
	kms     *grpc.ClientConn
}

func (w *world) attacker(t *testing.T, profile string, c *config.Credentials) *attacker {
	t.Helper()
	a, err := newAttacker(profile, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a
}

func newAttacker(profile string, c *config.Credentials) (*attacker, error) {
	p, err := config.LoadProfile(profile)
	if err != nil {
		return nil, err
	}
	if c != nil {
		p.Credentials = *c
	}
	a := &attacker{profile: p}
	if a.creds, err = p.Credentials.Load(time.Now()); err != nil {
		return nil, err
	}
	if a.sums, err = rpc.Dial(p.Aggregator, a.creds, identity.Aggregator, false); err != nil {
		return nil, err
	}
	if a.kms, err = rpc.Dial(p.KMS, a.creds, identity.KMS, false); err != nil {
		return nil, err
	}
	a.rounds, a.keys = pb.NewAggregatorServiceClient(a.sums), pb.NewKeyServiceClient(a.kms)
	return a, nil
}

func (a *attacker) close() {
	_ = a.sums.Close()
	_ = a.kms.Close() // nothing of either is needed
}

// issue makes a certificate of the house's authority.
func (w *world) issue(t *testing.T, role identity.Role, name string, life time.Duration) config.Credentials {
	t.Helper()
	ca, err := identity.OpenAuthority(filepath.Join(w.Folder, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	id := identity.Identity{Domain: ca.Domain, Role: role, Name: name}
	crt, key, err := ca.Issue(t.TempDir(), id, []string{"127.0.0.1"}, life, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return config.Credentials{Certificate: crt, Key: key, Authority: filepath.Join(w.Folder, "ca", identity.CACertificate)}
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
