//go:build cgo && !linux

package arrowio

func huge([]byte) {}
