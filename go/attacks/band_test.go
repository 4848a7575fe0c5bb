package attacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// bandVariable has a process of these tests be a band of attackers.
const bandVariable = "CRYPTFLOW_ATTACK_BAND"

// band is who attacks how. Attackers are a process of their own, of the lowest
// priority, since theirs are other machines: what they compute is not to be
// taken for what they cost the services.
type band struct {
	Profiles []string
	Deeds    []string
	Times    int // that each does a deed; 0: until standard input ends
}

// runBand is that process. It prints how often what was done.
func runBand(text string, in io.Reader, out io.Writer) int {
	var b band
	if err := errors.Join(json.Unmarshal([]byte(text), &b), syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, in) // until the test has enough, or is gone
		cancel()
	}()
	done := make([]atomic.Int64, len(b.Deeds))
	var all sync.WaitGroup
	for i, profile := range b.Profiles {
		a, err := newAttacker(profile, nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		all.Go(func() {
			defer a.close()
			var held []func()
			for n := 0; ctx.Err() == nil && (b.Times == 0 || n < b.Times); n++ {
				k := (i + n) % len(b.Deeds)
				limited, end := context.WithTimeout(ctx, 20*time.Second)
				release := deeds[b.Deeds[k]](limited, a, n)
				held = append(held, func() { release(); end() })
				done[k].Add(1)
				if len(held) > 2 { // what a deed opened stays open during the next two
					held[0]()
					held = held[1:]
				}
			}
			for _, f := range held {
				f()
			}
		})
	}
	all.Wait()
	counts := map[string]int64{}
	for k, name := range b.Deeds {
		counts[name] = done[k].Load()
	}
	if err := json.NewEncoder(out).Encode(counts); err != nil {
		return 1
	}
	return 0
}

// attackAll starts a band. What it returns ends it, once each did its deeds
// where they are counted, and says how often what was done.
func (s *siege) attackAll(t *testing.T, attackers int, names []string, times int) (end func() map[string]int64) {
	t.Helper()
	text, err := json.Marshal(band{Profiles: s.Clients[honest : honest+attackers], Deeds: names, Times: times})
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), bandVariable+"="+string(text))
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it has ended, unless the test failed
	})
	return func() map[string]int64 {
		if times == 0 {
			_ = in.Close() // it is told to end
		}
		counts := map[string]int64{}
		if err := errors.Join(json.NewDecoder(out).Decode(&counts), c.Wait()); err != nil {
			t.Fatal("the attackers:", err)
		}
		return counts
	}
}
