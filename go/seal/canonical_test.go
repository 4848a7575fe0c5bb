package seal_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/privacy"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/task"
)

func digestNamed(name string) task.Digest { return sha256.Sum256([]byte(name)) }

// canonicalCase is an object, its fields by name, and how it is parsed.
type canonicalCase struct {
	object task.Object
	fields object
	parse  func([]byte) error
}

func parser[T any](parse func([]byte) (T, error)) func([]byte) error {
	return func(b []byte) error {
		_, err := parse(b)
		return err
	}
}

func canonicalCases() map[string]canonicalCase {
	key := func(name string) task.Key { return task.Key(digestNamed(name)) }
	layout := task.Layout{{Name: "conv.weight", Shape: []uint64{2, 3}, Range: 0.5}, {Name: "bias", Range: 2}, {Name: "gewicht-ü", Shape: []uint64{1 << 33}, Range: 1e-3}}
	tensors := func(ranges bool) (out []object) {
		for _, t := range layout {
			one := object{"name": t.Name, "shape": append([]uint64{}, t.Shape...)}
			if ranges {
				one["range"] = hexOf(t.Range)
			}
			out = append(out, one)
		}
		return out
	}
	t := &task.Task{
		Name: "ward-7", Nonce: digestNamed("nonce"), Mode: params.SumKey, Preset: "n4096-q102", Bits: 16, Rounding: params.Stochastic, Encoding: params.Lanes, Ranges: task.RangesNegotiated,
		Layout: layout, InitialModel: digestNamed("model"), WeightCap: 5000, Metrics: []string{"accuracy", "loss"},
		Members:    []task.Member{{Name: "a", Organisation: "north"}, {Name: "b", Organisation: "south"}, {Name: "c.3_x", Organisation: "south"}},
		MaxClients: 64, MinCohort: 3, Permille: 800, PerOrganisation: 2, Deadline: 600, Rounds: 10, Aggregator: key("aggregator"), KMS: key("kms"),
	}
	taskFields := func(t *task.Task) object {
		return object{
			"name": t.Name, "nonce": hex.EncodeToString(t.Nonce[:]), "mode": t.Mode, "preset": t.Preset, "bits": t.Bits, "rounding": t.Rounding, "encoding": t.Encoding, "ranges": t.Ranges,
			"initial_model": t.InitialModel.String(), "weight_cap": t.WeightCap, "metrics": t.Metrics,
			"max_clients": t.MaxClients, "min_cohort": t.MinCohort, "permille": t.Permille, "per_organisation": t.PerOrganisation, "deadline": t.Deadline, "rounds": t.Rounds,
			"aggregator": t.Aggregator.String(), "kms": t.KMS.String(),
		}
	}
	private := *t
	private.Rounding, private.Ranges, private.WeightCap, private.Metrics = params.NearestEven, task.RangesFixed, 1, []string{}
	private.Layout = task.Layout{{Name: "conv.weight", Shape: []uint64{2, 3}}, {Name: "bias"}}
	promise, err := privacy.Derive(privacy.Promise{Clip: 1.5, Multiplier: 1.1, Delta: 1e-5, Colluding: 1}, private.Bits, private.Layout.Values(), private.MinCohort)
	if err != nil {
		panic(err)
	}
	private.Privacy = &promise
	privateTensors := []object{}
	for k := range private.Layout {
		x := &private.Layout[k]
		x.Range = promise.Range(private.Bits)
		privateTensors = append(privateTensors, object{"name": x.Name, "shape": append([]uint64{}, x.Shape...), "range": hexOf(x.Range)})
	}
	f64 := func(v float64) string { return fmt.Sprintf("%016x", math.Float64bits(v)) }
	hpke := bytes.Repeat([]byte{0xa5, 1}, 608)
	spec := &task.RoundSpec{
		Task: task.DigestOf(t), Round: 3, Kind: task.KindValues, Step: 2, ModelDigest: digestNamed("model 2"), LayoutDigest: task.DigestOf(layout), Lanes: 4, LogDelta: 10,
		Nonce: digestNamed("spec"), HPKE: hpke,
	}
	d := task.DigestOf(spec)
	manifest := &task.Manifest{Spec: d, Entries: []task.Entry{{Client: "a", Root: digestNamed("root a"), ModelDigest: spec.ModelDigest, Weight: 1}, {Client: "b", Root: digestNamed("root b"), ModelDigest: spec.ModelDigest, Weight: 255}}}
	entries := []object{}
	for _, e := range manifest.Entries {
		entries = append(entries, object{"client": e.Client, "root": e.Root.String(), "model": e.ModelDigest.String(), "weight": e.Weight})
	}
	members := []object{}
	for _, m := range t.Members {
		members = append(members, object{"name": m.Name, "organisation": m.Organisation})
	}
	m := task.DigestOf(manifest)
	plainFields, privateFields := taskFields(t), taskFields(&private)
	plainFields["layout"], plainFields["members"] = tensors(true), members
	privateFields["layout"], privateFields["members"] = privateTensors, members
	privateFields["clip"], privateFields["multiplier"], privateFields["delta"] = f64(promise.Clip), f64(promise.Multiplier), f64(promise.Delta)
	privateFields["colluding"], privateFields["steps"] = promise.Colluding, promise.Steps
	privateFields["bound"], privateFields["variance"] = promise.Bound, promise.Variance
	return map[string]canonicalCase{
		"layout":       {layout, object{"tensors": tensors(false)}, nil},
		"task":         {t, plainFields, parser(task.ParseTask)},
		"private-task": {&private, privateFields, parser(task.ParseTask)},
		"spec": {spec, object{
			"task": spec.Task.String(), "round": spec.Round, "kind": spec.Kind, "step": spec.Step, "model": spec.ModelDigest.String(), "layout": spec.LayoutDigest.String(),
			"lanes": spec.Lanes, "log_delta": spec.LogDelta, "nonce": hex.EncodeToString(spec.Nonce[:]), "hpke": hex.EncodeToString(spec.HPKE), "public_key": spec.PublicKey.String(),
		}, parser(task.ParseRoundSpec)},
		"manifest": {manifest, object{"spec": d.String(), "entries": entries}, parser(task.ParseManifest)},
		"receipt": {&task.Receipt{Spec: d, Client: "a", Root: digestNamed("root a"), Frames: 7, Bytes: 1<<40 + 5, Weight: 1},
			object{"spec": d.String(), "client": "a", "root": digestNamed("root a").String(), "frames": 7, "bytes": uint64(1<<40 + 5), "weight": 1}, parser(task.ParseReceipt)},
		"deposit": {&task.Deposit{Spec: d, Client: "a", ModelDigest: spec.ModelDigest, Root: digestNamed("root a")},
			object{"spec": d.String(), "client": "a", "model": spec.ModelDigest.String(), "root": digestNamed("root a").String()}, parser(task.ParseDeposit)},
		"decision": {&task.Decision{Spec: d, Outcome: task.Released, Manifest: m, Terms: 2, Weights: 256, Squares: 65026},
			object{"spec": d.String(), "outcome": task.Released, "manifest": m.String(), "terms": 2, "weights": 256, "squares": 65026, "reason": ""}, parser(task.ParseDecision)},
		"result": {&task.Result{Spec: d, Manifest: m, Root: digestNamed("root"), Frames: 7, Terms: 2},
			object{"spec": d.String(), "manifest": m.String(), "root": digestNamed("root").String(), "frames": 7, "terms": 2}, parser(task.ParseResult)},
		"release": {&task.Release{Spec: d, Manifest: m, Mode: params.SumKey, Terms: 2, Weights: 2, Squares: 2, Secret: []int32{0, -1, 40, -80}},
			object{"spec": d.String(), "manifest": m.String(), "mode": params.SumKey, "terms": 2, "weights": 2, "squares": 2, "secret": []int32{0, -1, 40, -80}}, parser(task.ParseRelease)},
		"announcement": {&task.Announcement{Spec: d, Client: "a", ModelDigest: spec.ModelDigest},
			object{"spec": d.String(), "client": "a", "model": spec.ModelDigest.String()}, parser(task.ParseAnnouncement)},
		"deposit-2": {&task.Deposit{Spec: d, Client: "a", ModelDigest: spec.ModelDigest, Root: digestNamed("root a"), Weight: 255},
			object{"spec": d.String(), "client": "a", "model": spec.ModelDigest.String(), "root": digestNamed("root a").String(), "weight": 255}, parser(task.ParseDeposit)},
		"report": {&task.Report{Spec: d, Client: "a", Opening: task.Opened, Result: digestNamed("result"), Sums: digestNamed("sums")},
			object{"spec": d.String(), "client": "a", "opening": task.Opened, "result": digestNamed("result").String(), "sums": digestNamed("sums").String()}, parser(task.ParseReport)},
		"verdict": {&task.Verdict{Spec: d, Opening: task.NotOpened, Agree: 3, Cohort: 4},
			object{"spec": d.String(), "opening": task.NotOpened, "result": task.Digest{}.String(), "sums": task.Digest{}.String(), "agree": 3, "cohort": 4}, parser(task.ParseVerdict)},
		"addressee": {&task.Addressee{Spec: d, Manifest: m, Client: "a"}, object{"spec": d.String(), "manifest": m.String(), "client": "a"}, nil},
	}
}

// TestCanonicalVectors: one object of each kind by its fields, its canonical
// bytes, their digest and an Ed25519 signature over them, and byte strings that
// are no objects.
func TestCanonicalVectors(t *testing.T) {
	names := []string{"layout", "task", "private-task", "spec", "manifest", "receipt", "deposit", "decision", "result", "release", "addressee"}
	vectors(t, "canonical.json", "what parties sign, by its fields and as bytes: docs/canonical.md", canonicalVectors(t, names))
}

// TestCohortVectors: what a cohort says of itself, in the same form.
func TestCohortVectors(t *testing.T) {
	names := []string{"announcement", "deposit-2", "report", "verdict"}
	vectors(t, "cohort.json", "what clients announce, deposit and report, and the verdict: docs/canonical.md", canonicalVectors(t, names))
}

func canonicalVectors(t *testing.T, names []string) (cases []object) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	all := canonicalCases()
	for _, name := range names {
		c := all[name]
		base, version, other := strings.TrimSuffix(name, "-2"), "/v1/", "/v2/"
		if base != name {
			version, other = other, version
		}
		signed := task.Sign(c.object, private)
		one := object{
			"object": name, "fields": c.fields, "bytes": hex.EncodeToString(signed.Bytes), "sha256": signed.Digest().String(),
			"public_key": hex.EncodeToString(private.Public().(ed25519.PublicKey)), "signature": hex.EncodeToString(signed.Signature),
		}
		if c.parse != nil {
			if err := c.parse(signed.Bytes); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			malformed := []object{}
			for why, bad := range map[string][]byte{
				"a byte less": signed.Bytes[:len(signed.Bytes)-1], "a byte more": append(bytes.Clone(signed.Bytes), 0),
				"another tag":      bytes.Replace(signed.Bytes, []byte(version), []byte(other), 1),
				"a huge length":    append([]byte{0xff, 0xff, 0xff, 0xff}, signed.Bytes[4:]...),
				"nothing":          {},
				"the tag alone":    signed.Bytes[:4+len("cryptflow/v1/")+len(base)],
				"a big-endian tag": append([]byte{0, 0, 0, byte(len("cryptflow/v1/") + len(base))}, signed.Bytes[4:]...),
			} {
				if err := c.parse(bad); !errors.Is(err, errs.ErrCanonical) {
					t.Errorf("%s, %s: %v", name, why, err)
				}
				malformed = append(malformed, object{"why": why, "bytes": hex.EncodeToString(bad)})
			}
			slices.SortFunc(malformed, func(a, b object) int { return strings.Compare(a["why"].(string), b["why"].(string)) })
			one["malformed"] = malformed
		}
		cases = append(cases, one)
	}
	return cases
}

// TestDigestVectors: roots of trees over frames, model digests and tickets.
func TestDigestVectors(t *testing.T) {
	var cases []object
	for n := range 10 {
		var tree merkle.Tree
		frames := []string{}
		for i := range n {
			b := bytes.Repeat([]byte{byte(i + 1)}, 3*i+1)
			tree.Append(merkle.Leaf(b))
			frames = append(frames, hex.EncodeToString(b))
		}
		head, root := tree.Head(), tree.Root()
		cases = append(cases, object{"what": "root", "frames": frames, "head": hex.EncodeToString(head[:]), "root": hex.EncodeToString(root[:])})
	}
	x := []float32{0, 1, -2.5, 1e-45, 3e38}
	layout := digestNamed("layout")
	first := task.InitialModel(layout, x)
	cases = append(cases,
		object{"what": "initial model", "layout": layout.String(), "values": hexAll(x), "digest": first.String()},
		object{"what": "next model", "previous": first.String(), "spec": digestNamed("spec").String(), "result": digestNamed("result").String(), "digest": task.NextModel(first, digestNamed("spec"), digestNamed("result")).String()},
		object{"what": "ticket", "spec": digestNamed("spec").String(), "from": 3, "to": 1 << 20, "bytes": hex.EncodeToString(rpc.Ticket(digestNamed("spec"), 3, 1<<20))},
	)
	vectors(t, "digests.json", "roots, model digests and tickets: docs/canonical.md", cases)
}

// TestComponentVectors: frames of two components, control frames and public
// keys. Residue i of component c modulo prime j is (i+1)·(c+2)·(j+3)·step
// modulo q_j; long frames are shown as hashes, malformed ones as what is done
// to the frame.
func TestComponentVectors(t *testing.T) {
	const step = 0x9e3779b97f4a7
	var cases []object
	for _, p := range params.Presets() {
		for _, c := range []struct {
			encoding                           params.Encoding
			components                         uint8
			chunk, terms, weight, coefficients uint32
		}{
			{params.Lanes, 2, 1<<32 - 1, 3, 3 * params.MaxWeight, 5},
			{params.Lanes, 2, 0, params.MaxClients, params.MaxClients, uint32(p.N())},
			{params.Control, 1, 9, 1, 1, 12},
			{params.Control, 2, 9, 2, 5, 12},
			{params.Slots, 2, 1, 2, 2, uint32(p.N())},
			{params.PublicKey, 1, 0, 1, 1, uint32(p.N())},
		} {
			h := frame.Header{Preset: p.ID, Encoding: c.encoding, Components: c.components, Key: [16]byte{1, 0xfe, 3}, Chunk: c.chunk, Terms: c.terms, Weight: c.weight, Coefficients: c.coefficients}
			var residues [][]uint64
			for k := range int(c.components) {
				n := int(c.coefficients)
				if k == 1 {
					n = p.N()
				}
				for j, q := range p.Primes {
					v := make([]uint64, n)
					for i := range v {
						hi, lo := bits.Mul64(uint64((i+1)*(k+2)*(j+3)), step)
						v[i] = bits.Rem64(hi, lo, q)
					}
					residues = append(residues, v)
				}
			}
			b := smallFrame(p, residues, h)
			if err := frame.Check(b, h); err != nil {
				t.Fatal(err)
			}
			one := object{
				"preset": preset(p), "encoding": h.Encoding, "components": h.Components, "key": hex.EncodeToString(h.Key[:]), "chunk": h.Chunk,
				"terms": h.Terms, "weight": h.Weight, "coefficients": h.Coefficients, "step": uint64(step), "bytes": len(b), "sha256": digest(b),
			}
			malformed := []object{}
			bend := func(why string, at int, put []byte) {
				bad := bytes.Clone(b)
				copy(bad[at:], put)
				if err := frame.Check(bad, h); !errors.Is(err, errs.ErrFrame) && !errors.Is(err, errs.ErrFrameContext) {
					t.Errorf("%s: %v", why, err)
				}
				if own, err := frame.ParseHeader(bad); err == nil && frame.Check(bad, own) == nil {
					t.Errorf("%s: a frame of its own header", why)
				}
				malformed = append(malformed, object{"why": why, "at": at, "put": hex.EncodeToString(put)})
			}
			le := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
			bend("components 3", 7, []byte{3})
			bend("components swapped for the length", 7, []byte{3 - c.components})
			bend("terms 0", 28, le(0))
			bend("weight below terms", 32, le(c.terms-1))
			bend("weight above 255 times terms", 32, le(255*c.terms+1))
			bend("coefficients above N", 36, le(uint32(p.N()+1)))
			bend("the last residue of the last block", len(b)-7, bytes.Repeat([]byte{0xff}, 7))
			bend("the first residue of the first block", frame.HeaderSize, bytes.Repeat([]byte{0xff}, 7))
			one["malformed"] = malformed
			cases = append(cases, one)
		}
	}
	vectors(t, "components.json", "frames of two components, control frames, public keys: docs/spec.md §6", cases)
}

// lastItem is the last extension of a task, whose content has n bytes.
func lastItem(b []byte, n int) []byte { return b[len(b)-8-n:] }

// TestExtensionVectors: tasks with extensions, as the fields of a plain or a
// private task and a list of them, and lists that no task has.
func TestExtensionVectors(t *testing.T) {
	all := canonicalCases()
	list := func(items ...any) []object {
		out := []object{}
		for i := 0; i < len(items); i += 2 {
			out = append(out, object{"id": items[i], "content": items[i+1]})
		}
		return out
	}
	plain := func(change func(*task.Task)) *task.Task {
		x := *all["task"].object.(*task.Task)
		x.Layout = slices.Clone(x.Layout)
		change(&x)
		return &x
	}
	private := *all["private-task"].object.(*task.Task)
	promise := private.Canonical()
	promise = promise[len(promise)-3*8-2*4-2*8:]
	private.Layout = slices.Clone(private.Layout)
	private.Layout[0].NonNegative = true
	fields := object{}
	for name, v := range all["private-task"].fields {
		if _, ok := all["task"].fields[name]; ok {
			fields[name] = v
		}
	}
	write := func(file string, all []extendedTask) {
		vectors(t, file, "tasks with extensions, by their fields and as bytes: docs/canonical.md", extensionCases(t, all))
	}
	write("extensions.json", []extendedTask{
		{plain(func(x *task.Task) { x.Trim = 1 }), all["task"].fields, list(3, "01000000")},
		{plain(func(x *task.Task) { x.Layout[1].Precise, x.Layout[2].NonNegative, x.Trim = true, true, 2 }), all["task"].fields, list(2, "000102", 3, "02000000")},
		{plain(func(x *task.Task) {
			x.Layout[0].Precise, x.Layout[0].NonNegative, x.Trim = true, true, 1
		}), all["task"].fields, list(2, "030000", 3, "01000000")},
		{&private, fields, list(1, hex.EncodeToString(promise), 2, "02"+strings.Repeat("00", len(private.Layout)-1))},
	})
	write("extended.json", []extendedTask{
		{plain(func(x *task.Task) { x.Canaries = 1 }), all["task"].fields, list(4, "01000000")},
		{plain(func(x *task.Task) { x.Trim, x.Canaries = 1, 64 }), all["task"].fields, list(3, "01000000", 4, "40000000")},
	})
}

// extendedTask is a task, its fields without extensions, and these.
type extendedTask struct {
	object *task.Task
	fields object
	items  []object
}

func extensionCases(t *testing.T, all []extendedTask) (cases []object) {
	t.Helper()
	for _, c := range all {
		b := c.object.Canonical()
		if _, err := task.ParseTask(b); err != nil {
			t.Fatal(err)
		}
		malformed := []object{}
		n := len(c.items[len(c.items)-1]["content"].(string)) / 2
		for _, bad := range []struct {
			why string
			b   []byte
		}{
			{"a byte less", b[:len(b)-1]},
			{"a byte more", append(bytes.Clone(b), 0)},
			{"the first version's tag", bytes.Replace(b, []byte("/v2/"), []byte("/v1/"), 1)},
			{"an unknown extension", bytes.Replace(b, lastItem(b, n), append([]byte{9}, lastItem(b, n)[1:]...), 1)},
			{"a default", append(b[:len(b)-n:len(b)-n], make([]byte, n)...)},
		} {
			if _, err := task.ParseTask(bad.b); !errors.Is(err, errs.ErrCanonical) {
				t.Errorf("%s: %v", bad.why, err)
			}
			malformed = append(malformed, object{"why": bad.why, "bytes": hex.EncodeToString(bad.b)})
		}
		cases = append(cases, object{
			"fields": c.fields, "extensions": c.items, "bytes": hex.EncodeToString(b),
			"sha256": task.DigestOf(c.object).String(), "malformed": malformed,
		})
	}
	return cases
}
