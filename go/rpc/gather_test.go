package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/cryptflow/cryptflow/go/identity"
)

// party issues credentials by the authority in a folder.
func party(t *testing.T, a *identity.Authority, authority string, role identity.Role) *identity.Credentials {
	t.Helper()
	id := identity.Identity{Domain: "test.local", Role: role, Name: "one"}
	certificate, key, err := a.Issue(t.TempDir(), id, []string{"localhost"}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := identity.Load(certificate, key, authority, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// counting counts writes, and refuses them on demand.
type counting struct {
	net.Conn
	writes atomic.Int32
	broken atomic.Bool
}

var errBroken = errors.New("broken")

func (c *counting) Write(b []byte) (int, error) {
	if c.broken.Load() {
		return 0, errBroken
	}
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// secured is both ends of a connection of a client to a service.
func secured(t *testing.T) (client, server net.Conn, below *counting) {
	t.Helper()
	folder := t.TempDir()
	a, err := identity.NewAuthority(folder, "test.local", 2*time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	here := party(t, a, filepath.Join(folder, identity.CACertificate), identity.Client)
	there := party(t, a, filepath.Join(folder, identity.CACertificate), identity.Aggregator)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err == nil {
			server, _, err = gathering{credentials.NewTLS(there.Server())}.ServerHandshake(c)
		}
		if err != nil {
			t.Error(err)
		}
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	below = &counting{Conn: c}
	client, _, err = gathering{credentials.NewTLS(here.Client(identity.Aggregator))}.ClientHandshake(context.Background(), "localhost", below)
	wg.Wait()
	if err != nil || t.Failed() {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() }) // may be closed already
	return client, server, below
}

func TestRecordsOfOneWriteLeaveTogether(t *testing.T) {
	client, server, below := secured(t)
	for _, n := range []int{1, 16 << 10, 64 << 10, 300 << 10} {
		want := bytes.Repeat([]byte{byte(n), 7, 9}, n/3+1)[:n]
		got := make([]byte, n)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := io.ReadFull(server, got); err != nil {
				t.Error(err)
			}
		})
		before := below.writes.Load()
		if m, err := client.Write(want); m != n || err != nil {
			t.Fatal(m, err)
		}
		if writes := int(below.writes.Load() - before); writes > 1+n/(48<<10) {
			t.Errorf("%d writes for %d bytes", writes, n)
		}
		wg.Wait()
		if !bytes.Equal(got, want) {
			t.Fatalf("other bytes of %d", n)
		}
	}
}

func TestAFailedWriteEndsTheConnection(t *testing.T) {
	client, _, below := secured(t)
	below.broken.Store(true)
	for range 2 {
		if _, err := client.Write(make([]byte, 20<<10)); !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
	}
	below.broken.Store(false)
	if _, err := client.Write([]byte("x")); !errors.Is(err, errBroken) {
		t.Fatalf("after a failure: %v", err)
	}
}

// TestCloseEndsAWriteThatWaits: the peer reads nothing.
func TestCloseEndsAWriteThatWaits(t *testing.T) {
	client, _, _ := secured(t)
	failed := make(chan error)
	waits := make(chan struct{})
	go func() {
		for b := make([]byte, 64<<10); ; {
			select {
			case waits <- struct{}{}:
			default:
			}
			if _, err := client.Write(b); err != nil {
				failed <- err
				return
			}
		}
	}()
	<-waits
	_ = client.Close() // says that it could not take leave
	if err := <-failed; err == nil {
		t.Fatal("written to a closed connection")
	}
}
