package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
)

func nothing(string) (string, bool) { return "", false }

// FuzzFiles: a file is refused with CF_CONFIG or yields a configuration that
// satisfies its own checks; a profile that is read is written back as itself.
func FuzzFiles(f *testing.F) {
	f.Add([]byte(common + admins + "kms = 'k:2'\n"))
	f.Add([]byte(common + admins + "kek = 'kek'\nfloor = 3\n"))
	f.Add([]byte("aggregator = 'a:1'\nkms = 'k:1'\ntask = 't'\nadmin_key = '" + someKey + "'\nkey = 'k'\n"))
	f.Add([]byte(common + "admin_keys = [1, 'x', []]\n"))
	f.Add([]byte("[key]\n[key]\n"))
	f.Add([]byte("key = \"\"\"\\u0000\"\"\"\n"))
	f.Add([]byte("floor = -1\nfloor = 99999999999999999999\n"))
	f.Add([]byte{0xff, 0xfe, 0})
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(folder, "c.toml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		coded := func(err error) bool {
			if err != nil && !errors.Is(err, errs.ErrConfig) {
				t.Fatalf("an error of another code: %v", err)
			}
			return err == nil
		}
		if a, err := config.LoadAggregator(path); coded(err) {
			if keys, err := a.Admins(); err != nil || len(keys) == 0 || a.KMS == "" || a.Listen == "" || a.Streams < 1 || a.Workers < 0 {
				t.Fatalf("%+v, %v", a, err)
			}
		}
		if k, err := config.LoadKMS(path); coded(err) {
			if keys, err := k.Admins(); err != nil || len(keys) == 0 || k.KEK == "" || k.Listen == "" || k.ReleaseSeconds < 1 || k.RoundSeconds < 1 {
				t.Fatalf("%+v, %v", k, err)
			}
		}
		p, err := config.LoadProfileFrom(path, nothing)
		if !coded(err) {
			return
		}
		again := filepath.Join(folder, "p.toml")
		if err := config.Write(again, "a profile", p); err != nil {
			t.Fatal(err)
		}
		if got, err := config.LoadProfileFrom(again, nothing); err != nil || *got != *p {
			t.Fatalf("%+v is read back as %+v, %v", p, got, err)
		}
	})
}

func FuzzKey(f *testing.F) {
	f.Add(someKey)
	f.Add(someKey[1:])
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := config.ParseKey(text)
		if err != nil {
			if !errors.Is(err, errs.ErrConfig) {
				t.Fatal(err)
			}
			return
		}
		if again, err := config.ParseKey(k.String()); err != nil || again != k {
			t.Fatalf("%q is read as %s", text, k)
		}
	})
}
