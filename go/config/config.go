// Package config reads the files and variables by which services, operators
// and clients are configured. A key that no program knows is an error that
// names the nearest known one; a path is relative to its file.
package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/task"
)

// Credentials are the files of one party. All are paths.
type Credentials struct {
	Certificate string `toml:"certificate"`
	Key         string `toml:"key"`
	Authority   string `toml:"authority"`
}

// Load reads and checks them.
func (c Credentials) Load(now time.Time) (*identity.Credentials, error) {
	for _, f := range []struct{ name, path string }{{"certificate", c.Certificate}, {"key", c.Key}, {"authority", c.Authority}} {
		if f.path == "" {
			return nil, fmt.Errorf("%s is not set: %w", f.name, errs.ErrConfig)
		}
	}
	return identity.Load(c.Certificate, c.Key, c.Authority, now)
}

// Profile is how a client or an admin reaches the services.
type Profile struct {
	Credentials
	Aggregator string `toml:"aggregator"` // host:port
	KMS        string `toml:"kms"`        // host:port
	Task       string `toml:"task"`
	AdminKey   string `toml:"admin_key"`   // 64 hexadecimal digits: who signs tasks
	SigningKey string `toml:"signing_key"` // an admin's own key, a path
}

// Service is what both services have in common.
type Service struct {
	Credentials
	Listen    string   `toml:"listen"`       // host:port
	Admin     string   `toml:"admin_listen"` // health and metrics, loopback; empty: none
	Data      string   `toml:"data"`         // folder
	AdminKeys []string `toml:"admin_keys"`   // who may sign tasks
	DenyList  string   `toml:"deny_list"`    // of the authority, a path; empty: nobody can be revoked
	Log       string   `toml:"log"`          // debug, info, warn, error
}

// Aggregator configures an aggregator.
type Aggregator struct {
	Service
	KMS        string `toml:"kms"`         // host:port of the key service
	Workers    int    `toml:"workers"`     // that add; 0: one a core
	Streams    int    `toml:"streams"`     // of frames served at once
	ReserveMiB int64  `toml:"reserve_mib"` // disk left free
}

// KMS configures a key service.
type KMS struct {
	Service
	Floor          uint32 `toml:"floor"`           // smallest cohort ever released
	KEK            string `toml:"kek"`             // file of the key-encryption key
	Epoch          string `toml:"epoch"`           // folder of the epoch's file; the KEK's when empty
	ReleaseSeconds int64  `toml:"release_seconds"` // how long a release can be fetched
	RoundSeconds   int64  `toml:"round_seconds"`   // how long a round may stay undecided beyond its deadline
	ReserveMiB     int64  `toml:"reserve_mib"`     // disk left free for decisions
}

// Defaults of what a file may leave out.
func (a *Aggregator) defaults() {
	a.Streams, a.ReserveMiB, a.Log = 4, 256, "info"
}

func (k *KMS) defaults() {
	k.Floor, k.ReleaseSeconds, k.RoundSeconds, k.ReserveMiB, k.Log = 3, 3600, 3600, 64, "info"
}

// LoadAggregator reads an aggregator's file.
func LoadAggregator(path string) (*Aggregator, error) {
	c := &Aggregator{}
	c.defaults()
	if err := read(path, c); err != nil {
		return nil, err
	}
	if c.KMS == "" {
		return nil, fmt.Errorf("%s: kms is not set: %w", path, errs.ErrConfig)
	}
	if c.Streams < 1 || c.Streams > 1<<10 || c.Workers < 0 || c.ReserveMiB < 0 {
		return nil, fmt.Errorf("%s: streams reaches from 1 to 1024, workers and reserve_mib from 0: %w", path, errs.ErrConfig)
	}
	return c, c.check(path)
}

// LoadKMS reads a key service's file.
func LoadKMS(path string) (*KMS, error) {
	c := &KMS{}
	c.defaults()
	if err := read(path, c); err != nil {
		return nil, err
	}
	if c.KEK == "" {
		return nil, fmt.Errorf("%s: kek is not set; name a file on another volume than backups: %w", path, errs.ErrConfig)
	}
	if c.Epoch == "" {
		c.Epoch = filepath.Dir(c.KEK)
	}
	if inside, err := filepath.Rel(c.Data, c.Epoch); err == nil && inside != ".." && !strings.HasPrefix(inside, "../") {
		return nil, fmt.Errorf("%s: the epoch lies in %s, inside data: a backup of data would bring back an old one, "+
			"and nobody would notice. Move kek out of data, or set epoch to a folder that no backup reads: %w", path, c.Epoch, errs.ErrConfig)
	}
	if c.ReleaseSeconds < 1 || c.RoundSeconds < 1 || c.ReserveMiB < 0 {
		return nil, fmt.Errorf("%s: release_seconds and round_seconds are positive, reserve_mib reaches from 0: %w",
			path, errs.ErrConfig)
	}
	return c, c.check(path)
}

func (s *Service) check(path string) error {
	if s.Listen == "" || s.Data == "" {
		return fmt.Errorf("%s: listen and data are needed: %w", path, errs.ErrConfig)
	}
	if len(s.AdminKeys) == 0 {
		return fmt.Errorf("%s: admin_keys is empty, so no task could ever be accepted: %w", path, errs.ErrConfig)
	}
	_, err := s.Admins()
	return err
}

// Admins are the keys that may sign tasks.
func (s *Service) Admins() ([]task.Key, error) {
	out := make([]task.Key, len(s.AdminKeys))
	for i, text := range s.AdminKeys {
		k, err := ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("admin_keys: %w", err)
		}
		out[i] = k
	}
	return out, nil
}

// ParseKey reads a public signing key.
func ParseKey(text string) (k task.Key, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(k) {
		return k, fmt.Errorf("%q is not a public key of 64 hexadecimal digits: %w", text, errs.ErrConfig)
	}
	return task.Key(b), nil
}

// LoadProfile reads a profile from a file, from CRYPTFLOW_PROFILE when path is
// empty, and then lets CRYPTFLOW_AGGREGATOR, _KMS, _TASK, _CERTIFICATE, _KEY,
// _AUTHORITY, _ADMIN_KEY and _SIGNING_KEY override it.
func LoadProfile(path string) (*Profile, error) { return LoadProfileFrom(path, os.LookupEnv) }

// LoadProfileFrom is LoadProfile with another way to look up variables: Go in
// a Python process does not see what Python changes in its environment.
func LoadProfileFrom(path string, lookup func(name string) (string, bool)) (*Profile, error) {
	if path == "" {
		path, _ = lookup("CRYPTFLOW_PROFILE")
	}
	p := &Profile{}
	if path != "" {
		if err := read(path, p); err != nil {
			return nil, err
		}
	}
	any := path != ""
	each(reflect.ValueOf(p).Elem(), func(key string, v reflect.Value) {
		if text, ok := lookup("CRYPTFLOW_" + strings.ToUpper(key)); ok && v.Kind() == reflect.String {
			v.SetString(text)
			any = true
		}
	})
	if !any {
		return nil, fmt.Errorf("no profile: name a file (cryptflow up writes one for each client) or set CRYPTFLOW_PROFILE: %w", errs.ErrConfig)
	}
	return p, nil
}

// paths are the keys whose values are paths.
var paths = map[string]bool{"certificate": true, "key": true, "authority": true, "signing_key": true,
	"data": true, "kek": true, "epoch": true, "deny_list": true}

// read decodes a file strictly and resolves its paths.
func read(path string, into any) error {
	meta, err := toml.DecodeFile(path, into)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s does not exist: %w", path, errs.ErrConfig)
	case err != nil:
		return fmt.Errorf("%s: %v: %w", path, err, errs.ErrConfig)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		var known []string
		each(reflect.ValueOf(into).Elem(), func(key string, _ reflect.Value) { known = append(known, key) })
		key := unknown[0].String()
		near := Nearest(key, known)
		if 2*distance(key, near) > len(key) { // of another program's file, perhaps
			return fmt.Errorf("%s: there is no %q; there are %s: %w", path, key, strings.Join(known, ", "), errs.ErrConfig)
		}
		return fmt.Errorf("%s: there is no %q; did you mean %q?: %w", path, key, near, errs.ErrConfig)
	}
	folder := filepath.Dir(path)
	each(reflect.ValueOf(into).Elem(), func(key string, v reflect.Value) {
		if paths[key] && v.String() != "" && !filepath.IsAbs(v.String()) {
			v.SetString(filepath.Join(folder, v.String()))
		}
	})
	return nil
}

// each calls f for every key of a configuration, embedded structs included.
func each(v reflect.Value, f func(key string, v reflect.Value)) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			each(v.Field(i), f)
		} else {
			f(field.Tag.Get("toml"), v.Field(i))
		}
	}
}

// Nearest is the known name with the least edit distance.
func Nearest(name string, known []string) string {
	best, least := "", int(^uint(0)>>1)
	for _, k := range known {
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, row[j]+1, before+1)
		}
	}
	return row[len(b)]
}

// Write stores a configuration in a new file with a comment on top.
func Write(path, comment string, c any) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s: %v: %w", path, err, errs.ErrConfig)
	}
	_, err = fmt.Fprintf(f, "# %s\n", comment)
	if err == nil {
		err = toml.NewEncoder(f).Encode(c)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %v: %w", path, err, errs.ErrConfig)
	}
	return nil
}
