package fold_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/fold"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/params"
)

// FuzzAdd: a frame that is refused leaves no trace; one that is taken is a
// frame of the place, and adding it commutes.
func FuzzAdd(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, p := range params.Presets() {
		for components := 1; components <= 2; components++ {
			b, _ := contribution(rng, header(p, components, 3), p, components == 1)
			if components == 1 { // those of two have N residues
				f.Add(uint8(p.ID), uint8(components), uint32(1), b)
			}
			f.Add(uint8(p.ID), uint8(components), uint32(200), b[:frame.HeaderSize])
		}
	}
	f.Add(uint8(0), uint8(0), uint32(0), []byte{})
	f.Fuzz(func(t *testing.T, id, components uint8, weight uint32, b []byte) {
		p, err := params.ByID(params.PresetID(id))
		if err != nil || components < 1 || components > 2 {
			return
		}
		h := header(p, int(components), 3)
		good, _ := contribution(rand.New(rand.NewPCG(2, 2)), h, p, false)
		sum := func(frames ...[]byte) []byte {
			a := fold.New(p)
			a.Reset(h)
			for _, x := range frames {
				w := uint32(1)
				if bytes.Equal(x, b) {
					w = weight
				}
				if err := a.Add(x, w); err != nil {
					if !errors.Is(err, errs.ErrFrame) && !errors.Is(err, errs.ErrFrameContext) && !errors.Is(err, errs.ErrWeight) {
						t.Fatalf("an error of another code: %v", err)
					}
				}
			}
			return a.Append(nil)
		}
		a := fold.New(p)
		a.Reset(h)
		before, after := sum(b, good), sum(good, b)
		if !bytes.Equal(before, after) {
			t.Fatal("the order matters")
		}
		if err := a.Add(b, weight); err != nil {
			if !bytes.Equal(before, sum(good)) {
				t.Fatal("a refused frame left a trace")
			}
			return
		}
		if err := frame.Check(b, h); err != nil {
			t.Fatalf("Add takes what Check refuses: %v", err)
		}
	})
}
