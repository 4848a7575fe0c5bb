//go:build cgo

package arrowio

import (
	"syscall"
	"unsafe"
)

const (
	hugeFrom  = 4 << 20
	pageSize  = 4096
	adviseTHP = 14 // MADV_HUGEPAGE
)

// huge asks for huge pages: first-touch faults otherwise cost three times the
// write itself. numpy does the same from the same size.
func huge(b []byte) {
	if len(b) < hugeFrom {
		return
	}
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (pageSize - 1)
	_ = syscall.Madvise(b[skip:skip+(len(b)-skip)&^(pageSize-1)], adviseTHP)
}
