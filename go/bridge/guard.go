//go:build cgo

// Package bridge is the whole surface that gopy sees: package-level functions
// over int64 handles, uintptr addresses of Arrow C Data structs and strings,
// each returning (T, error).
//
// # Security
//
// Every function recovers panics, and a panic poisons the library: what state
// it left is unknown. Errors cross as "CF_CODE: text".
//
// # Ownership
//
// A handle keeps what it names alive until Close. Input structs are moved in;
// output structs must be zeroed.
package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/errs"
)

const abi = "cryptflow-abi-1"

// version is set by the linker.
var version = "dev"

var (
	poisoned atomic.Bool
	lastID   atomic.Int64
	handles  sync.Map // int64 -> any
)

// guard runs body, turning errors into their boundary form and a panic into
// an error that every later call gets too.
func guard[T any](body func() (T, error)) (out T, err error) {
	defer func() {
		if r := recover(); r != nil {
			poisoned.Store(true)
			err = errors.New(errs.Format(fmt.Errorf("%v: %w", r, errs.ErrPanic)))
		}
	}()
	if poisoned.Load() {
		return out, errors.New(errs.Format(errs.ErrPoisoned))
	}
	if out, err = body(); err != nil {
		if errors.Is(err, errs.ErrPanic) { // of another goroutine, recovered there
			poisoned.Store(true)
		}
		err = errors.New(errs.Format(err))
	}
	return out, err
}

// decode reads one JSON value and nothing else; what says which one it is.
func decode(what, text string, into any) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: %v: %w", what, err, errs.ErrArgument)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: more than one JSON value: %w", what, errs.ErrArgument)
	}
	return nil
}

func store(v any) int64 {
	id := lastID.Add(1)
	handles.Store(id, v)
	return id
}

func lookup[T any](id int64) (T, error) {
	v, ok := handles.Load(id)
	t, fits := v.(T)
	if !ok || !fits {
		return t, fmt.Errorf("handle %d: %w", id, errs.ErrBadHandle)
	}
	return t, nil
}

// closer is a handle that holds foreign memory.
type closer interface{ close() }

// ABIVersion names the contract of this package and the version of the build.
func ABIVersion() (string, error) { return abi + " " + version, nil }

// Close drops a handle.
func Close(handle int64) (int64, error) {
	return guard(func() (int64, error) {
		v, ok := handles.LoadAndDelete(handle)
		if !ok {
			return 0, fmt.Errorf("handle %d: %w", handle, errs.ErrBadHandle)
		}
		if c, ok := v.(closer); ok {
			c.close()
		}
		return 1, nil
	})
}

// ErrorCodes lists every code that an error of this library can carry.
func ErrorCodes() (string, error) {
	return guard(func() (string, error) {
		return strings.Join(slices.Sorted(maps.Keys(errs.All())), " "), nil
	})
}

// Allocated is the number of bytes exported and not yet released.
func Allocated() (int64, error) {
	return guard(func() (int64, error) { return int64(arrowio.Mem.AllocatedBytes()), nil })
}

// DebugPanic panics on purpose: the tests need it.
func DebugPanic() (int64, error) {
	return guard(func() (int64, error) { panic("requested by a test") })
}
