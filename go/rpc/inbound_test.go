package rpc

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
)

// peerOf writes what a peer sends.
type peerOf struct {
	t     testing.TB
	b     bytes.Buffer
	f     *http2.Framer
	heads bytes.Buffer
	e     *hpack.Encoder
}

func newPeer(t testing.TB) *peerOf {
	p := &peerOf{t: t}
	p.b.WriteString(http2.ClientPreface)
	p.f = http2.NewFramer(&p.b, nil)
	p.f.AllowIllegalWrites = true
	p.e = hpack.NewEncoder(&p.heads)
	p.must(p.f.WriteSettings())
	return p
}

func (p *peerOf) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *peerOf) open(stream uint32, method string, more ...string) {
	p.t.Helper()
	p.heads.Reset()
	for i, s := range append([]string{method}, more...) {
		name := ":path"
		if i > 0 {
			name = "x"
		}
		p.must(p.e.WriteField(hpack.HeaderField{Name: name, Value: s}))
	}
	head := p.heads.Bytes()
	first := head[:min(len(head), 9)] // the rest in continuations
	p.must(p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first,
		EndHeaders: len(first) == len(head), PadLength: 3, Priority: http2.PriorityParam{Weight: 1}}))
	for rest := head[len(first):]; len(rest) > 0; {
		n := min(len(rest), 1000)
		p.must(p.f.WriteContinuation(stream, n == len(rest), rest[:n]))
		rest = rest[n:]
	}
}

func (p *peerOf) data(stream uint32, n int, end bool) {
	p.t.Helper()
	p.must(p.f.WriteData(stream, end, make([]byte, n)))
}

// limits of the tests' methods.
func testLimit(method string) int64 {
	switch method {
	case "/stream":
		return unlimited
	case "/small":
		return 100
	}
	return 0
}

// taken follows everything in pieces of random sizes.
func (p *peerOf) taken(seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	in := newInbound(testLimit)
	for b := p.b.Bytes(); len(b) > 0; {
		n := 1 + r.IntN(min(len(b), 40))
		if err := in.take(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// TestACallSendsNoMoreThanItsMethodTakes, in however many frames, and however
// the bytes arrive.
func TestACallSendsNoMoreThanItsMethodTakes(t *testing.T) {
	for name, x := range map[string]struct {
		says func(*peerOf)
		bad  bool
	}{
		"nothing":           {func(*peerOf) {}, false},
		"just enough":       {func(p *peerOf) { p.open(1, "/small"); p.data(1, 60, false); p.data(1, 40, true) }, false},
		"a byte more":       {func(p *peerOf) { p.open(1, "/small"); p.data(1, 60, false); p.data(1, 41, true) }, true},
		"at once":           {func(p *peerOf) { p.open(1, "/small"); p.data(1, 101, true) }, true},
		"an unknown method": {func(p *peerOf) { p.open(1, "/other"); p.data(1, 1, true) }, true},
		"a stream":          {func(p *peerOf) { p.open(1, "/stream"); p.data(1, 9000, false); p.data(1, 9000, true) }, false},
		"no call":           {func(p *peerOf) { p.data(1, 1, true) }, true},
		"after its end":     {func(p *peerOf) { p.open(1, "/stream"); p.data(1, 1, true); p.data(1, 1, true) }, true},
		"after a reset": {func(p *peerOf) {
			p.open(1, "/stream")
			p.must(p.f.WriteRSTStream(1, http2.ErrCodeCancel))
			p.data(1, 1, false)
		}, true},
		"headers again": {func(p *peerOf) {
			p.open(1, "/small")
			p.data(1, 100, false)
			p.open(1, "/stream")
			p.data(1, 1, false)
		}, true},
		"two calls": {func(p *peerOf) {
			p.open(1, "/small")
			p.open(3, "/stream")
			p.data(3, 500, false)
			p.data(1, 100, true)
			p.must(p.f.WritePing(false, [8]byte{1}))
			p.data(3, 0, true)
		}, false},
		"long headers": {func(p *peerOf) {
			p.open(1, "/small", strings.Repeat("\x01", 20<<10))
			p.data(1, 1,
				true)
		}, false},
		"too long headers": {func(p *peerOf) { p.open(1, "/small", strings.Repeat("\x01", 40<<10)) }, true},
		"repeated headers": {func(p *peerOf) {
			p.open(1, "/small", "same")
			p.open(3, "/small", "same")
			p.data(3,
				100, true)
		}, false},
		"damaged headers": {func(p *peerOf) {
			p.must(p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff}, EndHeaders: true}))
		}, true},
		"calls left open":   {func(p *peerOf) { p.many(maxOpen + 50) }, false},
		"an abandoned call": {func(p *peerOf) { p.many(maxOpen + 50); p.data(1, 1, false) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(20) {
				p := newPeer(t)
				x.says(p)
				err := p.taken(seed)
				if x.bad != (err != nil) {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if err != nil && !errors.Is(err, errs.ErrLimit) && !errors.Is(err, errs.ErrArgument) {
					t.Fatalf("not ours: %v", err)
				}
			}
		})
	}
}

func (p *peerOf) many(n int) {
	for i := range n {
		p.open(uint32(2*i+1), "/small")
	}
}

// TestClientsSendSmallMessages: only frames, cohorts and tasks are large.
func TestClientsSendSmallMessages(t *testing.T) {
	of := func(r identity.Role) identity.Identity { return identity.Identity{Role: r} }
	for method := range KeyTable() {
		if n := messageLimit(of(identity.Client), method); n > 20<<10 {
			t.Errorf("a client may send %d bytes to %s", n, method)
		}
	}
	for _, x := range []struct {
		role   identity.Role
		method string
		least  int64
	}{
		{identity.Client, flight + "DoPut", MaxMessage}, {identity.Admin, aggregator + "PutModel", MaxMessage},
		{identity.Admin, keys + "CreateTask", MaxMessage}, {identity.Aggregator, keys + "Decide", MaxDecide},
		{identity.Client, keys + "Deposit", 8 << 10}, {identity.Client, aggregator + "Commit", 8 << 10},
	} {
		if n := messageLimit(of(x.role), x.method); n < x.least {
			t.Errorf("%s: %s takes %d bytes", x.role, x.method, n)
		}
	}
	for method := range KeyTable() {
		for _, role := range []identity.Role{identity.Admin, identity.Aggregator, identity.Client, identity.KMS} {
			if n := messageLimit(of(role), method); n > MaxMessage+framing && (role != identity.Aggregator || method != keys+"Decide") {
				t.Errorf("%s may send %d bytes to %s", role, n, method)
			}
		}
	}
}

func FuzzInbound(f *testing.F) {
	p := newPeer(f)
	p.open(1, "/small", "x")
	p.data(1, 50, true)
	p.open(3, "/stream")
	p.data(3, 50, true)
	f.Add(p.b.Bytes(), 7)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		in := newInbound(testLimit)
		for len(b) > 0 {
			n := min(len(b), max(1, step))
			if in.take(b[:n]) != nil {
				return
			}
			b = b[n:]
			if len(in.payload)+len(in.block) > 2*maxHead || len(in.open) > maxOpen+1 {
				t.Fatal("more is kept than a connection may make it keep")
			}
		}
	})
}
