// Package errs holds every error that crosses a process or language boundary.
// Each has a stable code that Python maps to an exception class and gRPC
// carries in its status text; docs/errors.md lists them for users.
//
// # Compatibility
//
// Codes are never renamed or reused. Texts may change.
//
// # Security
//
// No error carries key bytes, values, ranges or norms of an update.
package errs

import (
	"errors"
	"strings"
)

// Kind groups codes by what the caller can do; rpc maps kinds to gRPC codes.
type Kind uint8

// Kinds. The zero value is invalid.
const (
	Internal    Kind = iota + 1 // a fault of ours or of the machine
	Invalid                     // the caller's input is wrong
	Denied                      // the caller may not
	NotFound                    // nothing of that name
	Conflict                    // the state does not allow it
	Unavailable                 // may succeed when tried again
	Exhausted                   // a limit or the disk is full
	Corrupt                     // bytes failed a check
)

// Sentinel is an error with a stable code. Wrap it with %w and say what was
// being done; compare with errors.Is.
type Sentinel struct {
	Code string
	Kind Kind
	Text string
}

func (s *Sentinel) Error() string { return s.Text }

var byCode = map[string]*Sentinel{}

func sentinel(code string, kind Kind, text string) *Sentinel {
	s := &Sentinel{Code: code, Kind: kind, Text: text}
	byCode[code] = s
	return s
}

// Find returns the sentinel err wraps, or ErrInternal.
func Find(err error) *Sentinel {
	var s *Sentinel
	if errors.As(err, &s) {
		return s
	}
	return ErrInternal
}

// Format renders err as "CF_CODE: text", the form that crosses boundaries.
func Format(err error) string { return Find(err).Code + ": " + err.Error() }

// remote is an error that arrived in Format's form.
type remote struct {
	text     string
	sentinel *Sentinel
}

func (r *remote) Error() string { return r.text }
func (r *remote) Unwrap() error { return r.sentinel }

// Parse is the inverse of Format. It returns nil when s carries no known code.
func Parse(s string) error {
	code, text, ok := strings.Cut(s, ": ")
	if !ok {
		return nil
	}
	found := byCode[code]
	if found == nil {
		return nil
	}
	return &remote{text: text, sentinel: found}
}

// All returns every sentinel by code.
func All() map[string]*Sentinel {
	out := make(map[string]*Sentinel, len(byCode))
	for k, v := range byCode {
		out[k] = v
	}
	return out
}
