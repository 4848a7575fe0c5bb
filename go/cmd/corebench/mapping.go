package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// pattern is how many values are drawn; longer files repeat them.
const pattern = 1 << 20

// mapped maps the first values float32 of a file for reading. A file that does
// not exist is made, of normal values within ±1.
func mapped(path string, values int64) ([]float32, func(), error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := draw(path, values); err != nil {
			return nil, nil, err
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }() // the mapping stays
	if info, err := f.Stat(); err != nil || info.Size() < 4*values {
		return nil, nil, fmt.Errorf("%s has fewer than %d values of float32: %w", path, values, errors.Join(err, io.ErrUnexpectedEOF))
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(4*values), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("mapping %s: %w", path, err)
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), values), func() { _ = syscall.Munmap(b) }, nil
}

func draw(path string, values int64) error {
	rng := rand.New(rand.NewPCG(5, 6))
	drawn := make([]float32, min(values, pattern))
	for i := range drawn {
		drawn[i] = float32(max(-1, min(1, rng.NormFloat64()*0.2)))
	}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(drawn))), 4*len(drawn))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	for left := 4 * values; left > 0 && err == nil; left -= int64(len(raw)) {
		_, err = w.Write(raw[:min(left, int64(len(raw)))])
	}
	return errors.Join(err, w.Flush(), f.Close())
}

// memory is what the process held besides its mappings of files: RssAnon of
// /proc/self/status.
type memory struct {
	Measure  string           `json:"measure"`
	Phases   map[string]int64 `json:"phases"` // largest in each
	Peak     int64            `json:"peak_bytes"`
	Mapped   int64            `json:"mapped_bytes"`   // largest RssFile: the mapping and the program
	Resident int64            `json:"resident_bytes"` // VmHWM: everything at once
}

func (m *memory) sample(phase string) error {
	anonymous, err := status("RssAnon")
	if err != nil {
		return err
	}
	file, err := status("RssFile")
	if err != nil {
		return err
	}
	if m.Resident, err = status("VmHWM"); err != nil {
		return err
	}
	if m.Phases == nil {
		m.Measure, m.Phases = fmt.Sprintf("RssAnon of /proc/self/status, every %d frames", step), map[string]int64{}
	}
	m.Phases[phase] = max(m.Phases[phase], anonymous)
	m.Peak, m.Mapped = max(m.Peak, anonymous), max(m.Mapped, file)
	return nil
}

// status reads one size in bytes from /proc/self/status.
func status(field string) (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(b, []byte("\n"+field+":"))
	words := bytes.Fields(rest)
	if !ok || len(words) < 2 {
		return 0, fmt.Errorf("the kernel does not tell %s", field)
	}
	kb, err := strconv.ParseInt(string(words[0]), 10, 64)
	return kb << 10, err
}
