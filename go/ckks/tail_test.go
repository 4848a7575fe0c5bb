package ckks

import (
	"fmt"
	"math"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/params"
)

// TestTheTailThatIsCut computes how far the support reaches and what lies
// beyond, and looks for both figures in docs/spec.md.
func TestTheTailThatIsCut(t *testing.T) {
	total, tail := density(0), new(big.Float).SetPrec(256)
	for k := 1; k <= largest+20; k++ {
		both := density(k)
		both.Add(both, both)
		total.Add(total, both)
		if k > largest {
			tail.Add(tail, both)
		}
	}
	cut, _ := tail.Quo(tail, total).Float64()
	bits, reach := math.Log2(cut), float64(largest)/params.Sigma
	t.Logf("the support ends at %.4fσ, beyond lies 2^%.4f", reach, bits)
	want := fmt.Sprintf("The support ends at %d = %.2fσ; what is cut off has probability 2^%.1f a sample", largest,
		reach, bits)
	page, err := os.ReadFile("../../docs/spec.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), want) {
		t.Errorf("docs/spec.md does not say: %s", want)
	}
}
