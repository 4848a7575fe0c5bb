package params

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"math/big"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/errs"
)

// limits of ePrint 2024/463 for 128-bit classical security, written out a
// second time.
var limits = []struct {
	logN   int
	secret Secret
	bits   int
}{
	{10, TernarySecret, 26}, {11, TernarySecret, 53}, {12, TernarySecret, 106}, {13, TernarySecret, 214}, {14, TernarySecret, 430},
	{10, GaussianSecret, 28}, {11, GaussianSecret, 55}, {12, GaussianSecret, 108}, {13, GaussianSecret, 216}, {14, GaussianSecret, 432},
}

// TestEveryLimitOfEverySecret: at each limit of the table, one bit above and
// far above, for each kind of secret. Ternary secrets are refused below their
// limit as well, and so are widths below that of the tables, at any modulus.
func TestEveryLimitOfEverySecret(t *testing.T) {
	for _, l := range limits {
		for _, bits := range []int{2, l.bits - 1, l.bits, l.bits + 1, 2 * l.bits, 2000} {
			q := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(bits)), big.NewInt(1))
			for _, sigma := range []float64{0, 3.19, math.Nextafter(MinSigma, 0), MinSigma, Sigma, math.Inf(-1), math.NaN()} {
				ok := l.secret == GaussianSecret && bits <= l.bits && sigma >= MinSigma
				t.Run(fmt.Sprintf("N=%d/secret=%d/bits=%d/sigma=%v", 1<<l.logN, l.secret, bits, sigma), func(t *testing.T) {
					if err := CheckSecurity(l.logN, l.secret, sigma, q); ok != (err == nil) || (!ok && !errors.Is(err, errs.ErrInsecure)) {
						t.Errorf("%v, want accepted: %v", err, ok)
					}
				})
			}
		}
		if got := MaxLogQ(l.logN, l.secret); got != l.bits {
			t.Errorf("N = 2^%d, secret %d: a limit of %d bits, published are %d", l.logN, l.secret, got, l.bits)
		}
	}
	for secret := range Secret(255) {
		if err := CheckSecurity(13, secret, Sigma, big.NewInt(3)); (err == nil) != (secret == GaussianSecret) {
			t.Errorf("secret kind %d: %v", secret, err)
		}
	}
}

// TestTheGateLooksAtThePresetItself: a preset that somebody changed is refused
// when a scheme is made of it.
func TestTheGateLooksAtThePresetItself(t *testing.T) {
	p := Presets()[1]
	choice := Choice{Preset: p.Name, Mode: SumKey, Bits: 8, Clients: 4, Weight: 1, Rounding: Stochastic}
	if _, err := NewScheme(choice); err != nil {
		t.Fatal(err)
	}
	before := *p
	defer func() { *p = before }()
	for name, change := range map[string]func(){
		"a smaller ring":   func() { p.LogN-- },
		"one prime more":   func() { p.Primes = append(append([]uint64(nil), p.Primes...), 257) },
		"wider primes":     func() { p.Primes = []uint64{1<<55 - 1, 1<<55 - 1} },
		"no ring":          func() { p.LogN = 0 },
		"an unlisted ring": func() { p.LogN = 15 },
	} {
		*p = before
		change()
		if _, err := NewScheme(choice); !errors.Is(err, errs.ErrInsecure) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNothingOverridesTheGate: the packages that decide parameters read no
// environment, declare no flag, and have no exported variable to set.
func TestNothingOverridesTheGate(t *testing.T) {
	for _, folder := range []string{".", "../ckks", "../seal", "../encoding"} {
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(folder, err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range file.Imports {
				if x.Path.Value == `"os"` || x.Path.Value == `"flag"` || x.Path.Value == `"plugin"` {
					t.Errorf("%s imports %s", path, x.Path.Value)
				}
			}
			for _, d := range file.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.VAR {
					continue
				}
				for _, s := range g.Specs {
					for _, n := range s.(*ast.ValueSpec).Names {
						if n.IsExported() {
							t.Errorf("%s: the exported variable %s can be set from outside", path, n.Name)
						}
					}
				}
			}
		}
	}
}
