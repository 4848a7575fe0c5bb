// Package arrowio is the only importer of Arrow: it validates, imports and
// exports Arrow C Data structs, and sends and takes frames over Arrow Flight.
//
// # Security
//
// Everything that can be checked is checked before arrow/cdata touches a
// struct: cdata v15 dereferences null pointers in C, where recover is useless.
//
// A Flight message comes from a stranger. Its description is read by hand
// before Arrow's reader acts on it, what decoding may allocate is bounded by
// the message's own size, and offsets are checked before a value is taken.
//
// # Ownership
//
// A struct that failed validation still belongs to the caller. Imported
// values alias foreign memory and die with Release. Exported buffers are C
// memory, never Go memory. A frame passed to a callback is valid until that
// returns.
package arrowio
