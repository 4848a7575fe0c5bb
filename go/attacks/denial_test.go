package attacks

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cryptflow/cryptflow/go/client"
)

// Numbers of a siege.
const (
	hostile     = 64
	honest      = 4
	allowance   = 64 * mib // of memory, for each service
	logsAtMost  = 10 * mib
	ledgerGrows = 8 * mib // of the key service
)

// siege is a world with honest clients in the task "t" and hostile ones in
// "theirs", all with certificates of one authority.
type siege struct {
	*world
	honest []*client.Client
	peaks  map[string]int64
	logged int64
	values int
}

func newSiege(t *testing.T, attackers int, rounds uint32) *siege {
	t.Helper()
	s := &siege{world: newWorld(t, honest+attackers), peaks: map[string]int64{}, values: 60_000}
	s.create(t, "t", 0, honest, s.values, rounds+1)
	s.create(t, "theirs", honest, honest+attackers, s.values, 1)
	s.honest = s.members(t, "t", 0, honest)
	average(t, s.honest, s.values) // what honest work needs
	for name := range s.children {
		s.peaks[name] = s.peak(t, name)
	}
	s.mu.Lock()
	s.logged = s.world.logged
	s.mu.Unlock()
	return s
}

// holds compares what the attack cost with what it may.
func (s *siege) holds(t *testing.T) {
	t.Helper()
	for name, before := range s.peaks {
		grown := s.peak(t, name) - before
		t.Logf("%-10s memory grew by %d MiB", name, grown/mib)
		if grown > allowance {
			t.Errorf("%s needed %d MiB more", name, grown/mib)
		}
	}
	s.mu.Lock()
	logged := s.world.logged - s.logged
	s.mu.Unlock()
	t.Logf("%-10s %d KiB were written", "log", logged>>10)
	if logged > logsAtMost {
		t.Errorf("the services wrote %d MiB of log", logged/mib)
	}
	var ledger int64
	if err := filepath.Walk(filepath.Join(s.Folder, "kms", "data"), func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			ledger += info.Size()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if ledger > ledgerGrows {
		t.Errorf("the key service stores %d MiB", ledger/mib)
	}
}

// tell prints how often what was done.
func tell(t *testing.T, counts map[string]int64) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%-22s %6d times", name, counts[name])
	}
}

// one runs some rounds of honest clients beside one kind of attack.
func one(t *testing.T, name string, attackers, times int) {
	t.Helper()
	const rounds = 2
	s := newSiege(t, attackers, rounds)
	end := s.attackAll(t, attackers, []string{name}, times)
	for range rounds {
		average(t, s.honest, s.values)
	}
	tell(t, end())
	s.holds(t)
}

// Every kind alone: a few attackers suffice, since limits are each identity's.

func TestSilentStreamsAreOpened(t *testing.T)  { one(t, "silent streams", 4, 3) }
func TestSilentUploadsAreNamed(t *testing.T)   { one(t, "silent uploads", 8, 4) }
func TestUploadsAreNeverFinished(t *testing.T) { one(t, "uploads not finished", 8, 4) }
func TestTasksAreAskedForByJunk(t *testing.T)  { one(t, "junk task names", 6, 2) }
func TestDepositsAreMegabytes(t *testing.T)    { one(t, "big deposits", 6, 4) }
func TestConnectionsAreMany(t *testing.T)      { one(t, "connections", 6, 4) }
func TestMessagesAreHalfSent(t *testing.T)     { one(t, "half messages", 16, 4) }
func TestModelsAreReadByNobody(t *testing.T)   { one(t, "slow readers", 8, 4) }

// TestSixtyFourHostileClients do all of it at once beside four honest ones.
// CRYPTFLOW_SOAK_SECONDS makes it last, and prints how long honest rounds took
// with and without them.
func TestSixtyFourHostileClients(t *testing.T) {
	seconds := setting(t, "CRYPTFLOW_SOAK_SECONDS", 0)
	names := slices.Sorted(maps.Keys(deeds))
	if seconds == 0 {
		const times, rounds = 2, 2
		s := newSiege(t, hostile, rounds)
		end := s.attackAll(t, hostile, names, times)
		for range rounds {
			average(t, s.honest, s.values)
		}
		tell(t, end())
		s.holds(t)
		return
	}
	const quiet, most = 20, 20_000
	s := newSiege(t, hostile, most)
	began := time.Now()
	for range quiet {
		average(t, s.honest, s.values)
	}
	alone := time.Since(began) / quiet
	end := s.attackAll(t, hostile, names, 0)
	n := 0
	for began = time.Now(); time.Since(began) < time.Duration(seconds)*time.Second && n < most-quiet; n++ {
		average(t, s.honest, s.values)
	}
	beside := time.Since(began) / time.Duration(max(n, 1))
	tell(t, end())
	t.Logf("%d honest rounds, %v each; without the others %v", n, beside, alone)
	s.holds(t)
}
