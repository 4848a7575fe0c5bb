// Package arrowio is the only importer of Arrow: it validates, imports and
// exports Arrow C Data structs.
//
// # Security
//
// Everything that can be checked is checked before arrow/cdata touches a
// struct: cdata v15 dereferences null pointers in C, where recover is useless.
//
// # Ownership
//
// A struct that failed validation still belongs to the caller. Imported
// values alias foreign memory and die with Release. Exported buffers are C
// memory, never Go memory.
package arrowio
