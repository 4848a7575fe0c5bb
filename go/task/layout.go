package task

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/params"
)

// Tensor is one named array of a model. Range is the largest magnitude of its
// update that travels unclipped.
type Tensor struct {
	Name  string
	Shape []uint64
	Range float32
	// Precise tensors travel in several digits: their small values keep their
	// bits beside large ones.
	Precise bool
	// NonNegative tensors stay so: no mean takes the model's values below zero.
	NonNegative bool
}

// Count is the number of values, the product of the shape.
func (t Tensor) Count() int64 {
	n := int64(1)
	for _, d := range t.Shape {
		if d != 0 && (d > params.MaxValues || n > params.MaxValues/int64(d)) {
			return params.MaxValues + 1
		}
		n *= int64(d)
	}
	return n
}

// Layout is the order in which a model's values travel: tensors one after the
// other, each in row-major order, nothing between them.
type Layout []Tensor

// Values is the number of values of one update.
func (l Layout) Values() int64 {
	n := int64(0)
	for _, t := range l {
		if n += t.Count(); n > params.MaxValues {
			return params.MaxValues + 1
		}
	}
	return n
}

// Canonical covers names and shapes; ranges belong to the task, not the model.
func (l Layout) Canonical() []byte {
	w := start("cryptflow/v1/layout")
	w.u32(uint32(len(l)))
	for _, t := range l {
		w.text(t.Name)
		w.u32(uint32(len(t.Shape)))
		for _, d := range t.Shape {
			w.u64(d)
		}
	}
	return w.b
}

// Compare names the first difference between a model's layout and the task's.
func (l Layout) Compare(model Layout) error {
	for i, want := range l {
		if i >= len(model) {
			return fmt.Errorf("tensor %d: the task has %s%v, the model has no more tensors: %w", i, want.Name, want.Shape, errs.ErrLayout)
		}
		got := model[i]
		if got.Name != want.Name {
			return fmt.Errorf("tensor %d: the task has %q, the model has %q: %w", i, want.Name, got.Name, errs.ErrLayout)
		}
		if fmt.Sprint(got.Shape) != fmt.Sprint(want.Shape) {
			return fmt.Errorf("tensor %q: the task has shape %v, the model has %v: %w", want.Name, want.Shape, got.Shape, errs.ErrLayout)
		}
	}
	if len(model) > len(l) {
		return fmt.Errorf("tensor %d: the model has %q, the task has no more tensors: %w", len(l), model[len(l)].Name, errs.ErrLayout)
	}
	return nil
}

func (l Layout) check() error {
	if len(l) == 0 || len(l) > MaxTensors {
		return fmt.Errorf("%d tensors; a layout has 1 to %d: %w", len(l), MaxTensors, errs.ErrLayout)
	}
	seen := map[string]bool{}
	for _, t := range l {
		switch {
		case t.Name == "" || len(t.Name) > maxText:
			return fmt.Errorf("tensor names have 1 to %d bytes: %w", maxText, errs.ErrLayout)
		case seen[t.Name]:
			return fmt.Errorf("tensor %q occurs twice: %w", t.Name, errs.ErrLayout)
		case len(t.Shape) > 32 || t.Count() < 1:
			return fmt.Errorf("tensor %q has shape %v: %w", t.Name, t.Shape, errs.ErrLayout)
		case !(t.Range > 0) || math.IsInf(float64(t.Range), 0):
			return fmt.Errorf("tensor %q: a range is a positive finite number: %w", t.Name, errs.ErrLayout)
		}
		seen[t.Name] = true
	}
	if l.Values() > params.MaxValues {
		return fmt.Errorf("more than %d values: %w", int64(params.MaxValues), errs.ErrLayout)
	}
	return nil
}

// NewModelHash hashes a task's first model, given the digest of its layout and
// then the little-endian float32 bytes of its values.
func NewModelHash(layout Digest) hash.Hash {
	h := sha256.New()
	h.Write(start("cryptflow/v1/initial-model").b)
	h.Write(layout[:])
	return h
}

// InitialModel is the digest of a task's first model.
func InitialModel(layout Digest, values []float32) Digest {
	h := NewModelHash(layout)
	buf := make([]byte, 0, 1<<16)
	for len(values) > 0 {
		n := min(len(values), 1<<14)
		buf = buf[:0]
		for _, v := range values[:n] {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
		}
		h.Write(buf)
		values = values[n:]
	}
	return Digest(h.Sum(nil))
}

// NextModel is the digest of the model after a published round. It chains
// public digests, never a hash of locally computed floats.
func NextModel(previous, spec, result Digest) Digest {
	w := start("cryptflow/v1/model")
	w.fixed(previous)
	w.fixed(spec)
	w.fixed(result)
	return sha256.Sum256(w.b)
}
