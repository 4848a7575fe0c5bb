package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
)

var someKey = strings.Repeat("ab", 32)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	common = "listen = 'a:1'\ndata = 'data'\ncertificate = 'c.crt'\nkey = '/abs/c.key'\nauthority = 'ca.crt'\n"
	admins = "admin_keys = ['abababababababababababababababababababababababababababababababab']\n"
)

func TestFilesAreReadStrictly(t *testing.T) {
	path := file(t, common+admins+"kms = 'k:2'\n")
	a, err := config.LoadAggregator(path)
	if err != nil {
		t.Fatal(err)
	}
	if a.Data != filepath.Join(filepath.Dir(path), "data") || a.Key != "/abs/c.key" || a.Streams < 1 || a.ReserveMiB < 1 {
		t.Fatalf("%+v", a)
	}
	k, err := config.LoadKMS(file(t, common+admins+"kek = 'kek'\n"))
	if err != nil || k.Floor != 3 {
		t.Fatalf("%+v, %v", k, err)
	}
	for _, x := range []struct{ name, text, want string }{
		{"an unknown key", common + admins + "kms = 'k:2'\nstrems = 3\n", `did you mean "streams"`},
		{"another program's key", common + admins + "kms = 'k:2'\nrelease_seconds = 3\n", `there are certificate, key, authority, listen,`},
		{"another unknown key", common + admins + "kms = 'k:2'\nadmin_kesy = []\n", `did you mean "admin_keys"`},
		{"an unknown table", common + admins + "kms = 'k:2'\n[log]\nlevel = 'x'\n", "log"},
		{"the wrong type", common + admins + "kms = 'k:2'\nstreams = 'many'\n", "streams"},
		{"no admin", common + "kms = 'k:2'\n", "admin_keys"},
		{"a short admin key", common + "admin_keys = ['abab']\nkms = 'k:2'\n", "64 hexadecimal"},
		{"no key service", common + admins, "kms is not set"},
		{"no streams", common + admins + "kms = 'k:2'\nstreams = 0\n", "1 to 1024"},
		{"no address", "data = 'd'\n" + admins + "kms = 'k:2'\n", "listen and data"},
		{"not TOML", "listen = \n", "c.toml"},
	} {
		if _, err := config.LoadAggregator(file(t, x.text)); !errors.Is(err, errs.ErrConfig) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	for _, x := range []struct{ name, text, want string }{
		{"no key-encryption key", common + admins, "kek is not set"},
		{"a key of the aggregator", common + admins + "kek = 'k'\nworkers = 2\n", "workers"},
		{"no time", common + admins + "kek = 'k'\nrelease_seconds = 0\n", "positive"},
	} {
		if _, err := config.LoadKMS(file(t, x.text)); !errors.Is(err, errs.ErrConfig) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	if _, err := config.LoadKMS(filepath.Join(t.TempDir(), "none")); !errors.Is(err, errs.ErrConfig) {
		t.Errorf("no file: %v", err)
	}
}

func TestVariablesOverrideAProfile(t *testing.T) {
	path := file(t, "aggregator = 'a:1'\nkms = 'k:1'\ntask = 't'\nadmin_key = '"+someKey+"'\nkey = 'k'\n")
	environment := map[string]string{"CRYPTFLOW_PROFILE": path, "CRYPTFLOW_TASK": "u", "CRYPTFLOW_KEY": "/other", "CRYPTFLOW_UNRELATED": "x"}
	lookup := func(name string) (string, bool) { v, ok := environment[name]; return v, ok }
	p, err := config.LoadProfileFrom("", lookup)
	if err != nil || p.Task != "u" || p.Key != "/other" || p.Aggregator != "a:1" {
		t.Fatalf("%+v, %v", p, err)
	}
	environment = map[string]string{"CRYPTFLOW_AGGREGATOR": "b:2"}
	if p, err = config.LoadProfileFrom("", lookup); err != nil || p.Aggregator != "b:2" {
		t.Fatalf("%+v, %v", p, err)
	}
	environment = nil
	if _, err := config.LoadProfileFrom("", lookup); !errors.Is(err, errs.ErrConfig) {
		t.Fatalf("nothing at all: %v", err)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.toml")
	want := config.Profile{Aggregator: "a:1", KMS: "k:1", Task: "t", AdminKey: someKey, Credentials: config.Credentials{Certificate: "/c", Key: "/k", Authority: "/a"}}
	if err := config.Write(path, "a profile", want); err != nil {
		t.Fatal(err)
	}
	got, err := config.LoadProfileFrom(path, func(string) (string, bool) { return "", false })
	if err != nil || *got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
}

func TestTheNearestNameIsTheNearest(t *testing.T) {
	known := []string{"listen", "data", "kms", "streams", "workers"}
	for given, want := range map[string]string{"lisen": "listen", "date": "data", "kns": "kms", "stream": "streams", "worker_count": "workers"} {
		if got := config.Nearest(given, known); got != want {
			t.Errorf("%q is nearest to %q, want %q", given, got, want)
		}
	}
}
