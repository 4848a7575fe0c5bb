//go:build cgo

package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/errs"
)

// structs is room for an array and a schema of the C Data Interface, in memory
// that is not Go's, as Python provides it.
type structs []byte

func newStructs(t testing.TB) structs {
	t.Helper()
	s := structs(arrowio.Mem.Allocate(512))
	clear(s)
	t.Cleanup(func() { arrowio.Mem.Free(s) })
	return s
}

func (s structs) addresses() (arr, sch uintptr) {
	return uintptr(unsafe.Pointer(&s[0])), uintptr(unsafe.Pointer(&s[256]))
}

// exported is an array as Python hands it over.
func exported(t testing.TB, a arrow.Array) (arr, sch uintptr) {
	t.Helper()
	defer a.Release()
	arr, sch = newStructs(t).addresses()
	if err := arrowio.Export(a, arr, sch); err != nil {
		t.Fatal(err)
	}
	return arr, sch
}

func floats(t testing.TB, values ...float32) (arr, sch uintptr) {
	t.Helper()
	a, out := arrowio.NewFloat32(len(values))
	copy(out, values)
	return exported(t, a)
}

// must fails the test on an error.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// column moves an exported column of frames in and returns copies.
func column(t testing.TB, arr, sch uintptr) [][]byte {
	t.Helper()
	in, err := arrowio.ImportBinary(arr, sch)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Release()
	var out [][]byte
	for i := range in.Len() {
		out = append(out, append([]byte(nil), in.Value(i)...))
	}
	return out
}

func binary(t testing.TB, frames ...[]byte) (arr, sch uintptr) {
	t.Helper()
	var sizes []int
	for _, f := range frames {
		sizes = append(sizes, len(f))
	}
	b, err := arrowio.NewBinary(sizes, func(room []byte) error {
		copy(room, slices.Concat(frames...))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return exported(t, b)
}

// TestARoundThroughTheBoundary: keys, encryption, sum and decryption by the
// functions that Python calls, arrays as C structs both ways. Nothing is left
// allocated.
func TestARoundThroughTheBoundary(t *testing.T) {
	before := must[int64](t)(Allocated())
	for _, mode := range []string{"sum-key", "shared-key"} {
		t.Run(mode, func(t *testing.T) {
			number, text := must[int64](t), must[string](t)
			round := number(RoundNew(fmt.Sprintf(`{"mode": %q, "preset": "n2048-q52", "rounding": "nearest", "bits": 8, "clients": 2, "weight_cap": 1, "digest": "", "tensors": [{"name": "w", "count": 5, "range": 1}]}`, mode)))
			var info struct{ Frames int64 }
			if err := json.Unmarshal([]byte(text(RoundInfo(round))), &info); err != nil || info.Frames != 2 {
				t.Fatal(info, err)
			}
			first := number(KeyNew(round))
			keys := []int64{first, first}
			if mode == "sum-key" {
				keys[1] = number(KeyNew(round))
			}
			updates := [][]float32{{0.5, -0.5, 1, -1, 0}, {0.25, 0.5, 1, 1, 0}}
			fold := number(FoldNew(round, 0, info.Frames, 3))
			for i, key := range keys {
				arr, sch := floats(t, updates[i]...)
				sealer := number(SealerNew(round, key, 1, 1, arr, sch))
				if got := text(SealClipped(sealer)); got != "[0]" {
					t.Fatalf("clipped %s", got)
				}
				arr, sch = newStructs(t).addresses()
				if rest := number(SealNext(sealer, info.Frames, arr, sch)); rest != 0 {
					t.Fatalf("%d frames remain", rest)
				}
				if n := number(FoldAdd(fold, 1, arr, sch)); n != int64(i+1) {
					t.Fatalf("%d terms", n)
				}
				number(Close(sealer))
			}
			arr, sch := newStructs(t).addresses()
			number(FoldTake(fold, arr, sch))
			frames := column(t, arr, sch)
			handles := keys
			if mode == "shared-key" {
				handles = keys[:1]
			}
			request, err := json.Marshal(map[string]any{"keys": handles, "weights": []int{1, 1}})
			if err != nil {
				t.Fatal(err)
			}
			release := number(ReleaseNew(round, string(request)))
			opener := number(OpenerNew(round, release, 1))
			arr, sch = binary(t, frames[1])
			text(OpenControl(opener, arr, sch))
			inArr, inSch := binary(t, frames[0])
			arr, sch = newStructs(t).addresses()
			number(Open(opener, 0, 5, inArr, inSch, arr, sch))
			out, err := arrowio.ImportFloat32(arr, sch)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Release()
			for i, v := range out.Float32Values() {
				if want := (updates[0][i] + updates[1][i]) / 2; math.Abs(float64(v-want)) > 1.0/127 {
					t.Errorf("value %d is %v, want %v", i, v, want)
				}
			}
			for _, h := range append([]int64{round, fold, release, opener, first}, keys[1:]...) {
				_, _ = Close(h)
			}
		})
	}
	if after := must[int64](t)(Allocated()); after != before {
		t.Errorf("%d bytes are still allocated", after-before)
	}
}

// TestABadFrameIsNamed: a sum that cannot be made says which frame of which
// contribution it is, gives nothing out and can be closed.
func TestABadFrameIsNamed(t *testing.T) {
	before := must[int64](t)(Allocated())
	t.Run("sum", badFrame)
	if after := must[int64](t)(Allocated()); after != before {
		t.Errorf("%d bytes are still allocated", after-before)
	}
}

func badFrame(t *testing.T) {
	number := must[int64](t)
	round := number(RoundNew(sumRequest))
	key := number(KeyNew(round))
	arr, sch := floats(t, 0.5, -0.5, 1, -1, 0)
	sealer := number(SealerNew(round, key, 1, 1, arr, sch))
	arr, sch = newStructs(t).addresses()
	number(SealNext(sealer, 2, arr, sch))
	frames := column(t, arr, sch)
	bad := slices.Clone(frames[1])
	bad[len(bad)-1] ^= 0x80 // a padding bit
	fold := number(FoldNew(round, 0, 2, 2))
	for i, pair := range [][][]byte{frames, {frames[0], bad}} {
		arr, sch = binary(t, pair...)
		if n := number(FoldAdd(fold, 1, arr, sch)); n != int64(i+1) {
			t.Fatalf("%d contributions after %d", n, i+1)
		}
	}
	arr, sch = newStructs(t).addresses()
	_, err := FoldTake(fold, arr, sch)
	if err == nil || !strings.Contains(err.Error(), "frame 1 of contribution 1") || !strings.HasPrefix(err.Error(), "CF_FRAME") {
		t.Errorf("%v", err)
	}
	if arrowio.CheckOut(arr, sch) != nil {
		t.Error("something was written to the output structs")
	}
	for _, h := range []int64{fold, sealer, key, round} {
		number(Close(h))
	}
}

// TestAWorkersPanicPoisons: a panic that another goroutine recovered counts as
// one of this goroutine.
func TestAWorkersPanicPoisons(t *testing.T) {
	defer poisoned.Store(false)
	for _, do := range []func() error{
		func() error { _, err := guard(func() (int64, error) { return 0, errs.ErrPanic }); return err },
		func() error { _, err := guardRaw(func() (any, error) { return nil, errs.ErrPanic }); return err },
	} {
		poisoned.Store(false)
		if err := do(); err == nil || !poisoned.Load() {
			t.Errorf("%v, poisoned: %v", err, poisoned.Load())
		}
		if _, err := RoundNew(sumRequest); err == nil || !errors.Is(errs.Parse(err.Error()), errs.ErrPoisoned) {
			t.Errorf("%v, want CF_POISONED", err)
		}
	}
}

// coded fails unless an error crosses as "CF_CODE: text" and nothing panicked.
func coded(t *testing.T, err error) {
	t.Helper()
	if poisoned.Load() {
		t.Fatalf("a panic: %v", err)
	}
	if err != nil && (errs.Parse(err.Error()) == nil || !strings.HasPrefix(err.Error(), "CF_")) {
		t.Fatalf("an error without a code: %v", err)
	}
}

const sumRequest = `{"mode": "sum-key", "preset": "n2048-q52", "rounding": "nearest", "bits": 8, "clients": 2, "weight_cap": 1, "digest": "", "tensors": [{"name": "w", "count": 5, "range": 1}]}`

// FuzzRound: no string makes a round that panics, and a round that is made has
// a description.
func FuzzRound(f *testing.F) {
	f.Add(sumRequest)
	f.Add(strings.Replace(sumRequest, "sum-key", "shared-key", 1))
	f.Add(strings.Replace(sumRequest, `"count": 5`, `"count": 9223372036854775807`, 1))
	f.Add(strings.Replace(sumRequest, `"range": 1`, `"range": 1e39`, 1))
	f.Add(strings.Replace(sumRequest, `"digest": ""`, `"digest": "`+strings.Repeat("é", 32)+`"`, 1))
	f.Add(strings.Replace(sumRequest, `"weight_cap": 1`, `"weight_cap": 4294967295`, 1))
	f.Add(strings.Replace(sumRequest, `"digest": ""`, `"encoding": "slots"`, 1))
	f.Add(sumRequest + sumRequest)
	f.Add("{")
	f.Add("null")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := RoundNew(text)
		if coded(t, err); err != nil {
			return
		}
		if !json.Valid([]byte(text)) {
			t.Fatal("a round of something that is no JSON value")
		}
		info, err := RoundInfo(h)
		if coded(t, err); err != nil || !json.Valid([]byte(info)) {
			t.Fatalf("%q, %v", info, err)
		}
		if _, err := Close(h); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzRelease: handles and weights may be anything.
func FuzzRelease(f *testing.F) {
	round, err := RoundNew(sumRequest)
	if err != nil {
		f.Fatal(err)
	}
	key, err := KeyNew(round)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(round, fmt.Sprintf(`{"keys": [%d], "weights": [1]}`, key))
	f.Add(round, fmt.Sprintf(`{"keys": [%d, %d], "weights": [4294967295, 4294967295]}`, key, key))
	f.Add(round, `{"keys": [], "weights": []}`)
	f.Add(round, fmt.Sprintf(`{"keys": [%d], "weights": [1]}`, round))
	f.Add(int64(-1), `{}`)
	f.Add(round, `[`)
	f.Fuzz(func(t *testing.T, handle int64, text string) {
		h, err := ReleaseNew(handle, text)
		if coded(t, err); err != nil {
			return
		}
		o, err := OpenerNew(round, h, 1)
		if coded(t, err); err == nil {
			_, _ = Close(o)
		}
		_, _ = Close(h)
	})
}

// FuzzRequest: requests of operations are read strictly.
func FuzzRequest(f *testing.F) {
	f.Add("plan", `{"plan": {"values": 1000, "clients": 4, "bits": 8, "mode": "sum-key", "rounding": "nearest", "weight_cap": 1}}`)
	f.Add("plan", `{"plan": {"values": -1, "clients": 0, "bits": 99, "mode": "sum-key", "rounding": "nearest", "weight_cap": -1}}`)
	f.Add("plan", `{"plan": {"values": 9223372036854775807, "clients": 4096, "bits": 30, "mode": "shared-key", "rounding": "stochastic", "weight_cap": 255}}`)
	f.Add("plan", `{}`)
	f.Add("collect", `{"client": 1, "contribution": 1}`)
	f.Add("", `{"unknown": 1}`)
	f.Add("", ``)
	f.Fuzz(func(t *testing.T, kind, text string) {
		q, err := parse(text)
		if err != nil {
			return
		}
		switch kind {
		case "plan", "collect":
			if q.Plan != nil && q.Plan.Calibrate {
				return // measures this machine
			}
		case "connect", "model", "audit", "list", "abort": // of services that a profile names
			return
		}
		h, err := Start(kind, text)
		if coded(t, err); err != nil {
			return
		}
		for done := false; !done; {
			answer, err := OpPoll(h, 100)
			coded(t, err)
			done = err != nil || strings.Contains(answer, `"done":true`)
		}
		if _, err := Close(h); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzHandles: every function of the boundary refuses handles and addresses
// that it did not give out.
func FuzzHandles(f *testing.F) {
	f.Add(int64(0), int64(0), int64(0))
	f.Add(int64(-1), int64(1)<<62, int64(-1)<<62)
	f.Fuzz(func(t *testing.T, handle, a, b int64) {
		if _, ok := handles.Load(handle); ok {
			return
		}
		calls := []func() error{
			func() error { _, err := RoundInfo(handle); return err },
			func() error { _, err := KeyNew(handle); return err },
			func() error { _, err := ReleaseNew(handle, "{}"); return err },
			func() error { _, err := SealerNew(handle, a, b, 1, 0, 0); return err },
			func() error { _, err := SealClipped(handle); return err },
			func() error { _, err := SealNext(handle, a, 0, 0); return err },
			func() error { _, err := FoldNew(handle, a, b, 2); return err },
			func() error { _, err := FoldAdd(handle, a, 0, 0); return err },
			func() error { _, err := FoldTake(handle, 0, 0); return err },
			func() error { _, err := OpenerNew(handle, a, b); return err },
			func() error { _, err := OpenControl(handle, 0, 0); return err },
			func() error { _, err := Open(handle, a, b, 0, 0, 0, 0); return err },
			func() error { _, err := OpPoll(handle, a); return err },
			func() error { _, err := OpCancel(handle); return err },
			func() error { _, err := OpTake(handle, 0, 0); return err },
			func() error { _, err := Close(handle); return err },
			func() error { _, err := StartWith("contribute", "{}", 0, 0); return err },
		}
		for i, call := range calls {
			err := call()
			if coded(t, err); err == nil {
				t.Fatalf("call %d took handle %d", i, handle)
			}
		}
		round, err := RoundNew(sumRequest)
		if err != nil {
			t.Fatal(err)
		}
		if h, err := FoldNew(round, a, b, 2); err == nil {
			_, _ = Close(h)
		} else {
			coded(t, err)
		}
		_, _ = Close(round)
	})
}
