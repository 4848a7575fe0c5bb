package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
)

// maxDenyList bounds a list's file.
const maxDenyList = 4 << 20

// Denied is the deny list that a service obeys: the newest one that the
// authority signed. A file that is missing, cut, wrongly signed or older than
// a list that was seen changes nothing.
type Denied struct {
	path, memory string
	authority    *x509.Certificate
	current      atomic.Pointer[DenyList]

	mu     sync.Mutex // of a reload
	digest [32]byte   // of the current list
	stamp  stamp
}

// stamp is what changes when a file is written.
type stamp struct {
	modified time.Time
	size     int64
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	return stamp{info.ModTime(), info.Size()}, nil
}

// OpenDenied reads the list at path. memory is a file of the service in which
// it keeps the number of the newest list that it obeyed: an older one is
// refused, also after a restart.
func OpenDenied(path, memory, authority string) (*Denied, error) {
	root, err := ReadCertificate(authority)
	if err != nil {
		return nil, err
	}
	d := &Denied{path: path, memory: memory, authority: root}
	if err := d.load(); err != nil {
		return nil, fmt.Errorf("deny_list %s: %w", path, err)
	}
	return d, nil
}

// Reload reads the list again when its file has changed. It says whether
// another list is obeyed now; after an error the last good one still is.
func (d *Denied) Reload() (changed bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := stampOf(d.path)
	if err == nil && s == d.stamp {
		return false, nil
	}
	gone := errors.Is(err, fs.ErrNotExist)
	if gone && d.stamp == (stamp{}) {
		return false, nil // it was said
	}
	before := d.current.Load()
	if err = d.load(); err != nil {
		if d.stamp = s; gone {
			d.stamp = stamp{}
		}
		return false, fmt.Errorf("deny_list %s: %w; list number %d stays in force", d.path, err, before.Number)
	}
	return d.current.Load().Number != before.Number, nil
}

// load reads the file, and takes its list unless it is older than one seen.
func (d *Denied) load() error {
	s, err := stampOf(d.path)
	if err != nil {
		return fmt.Errorf("%v; copy it from the authority, which writes an empty one with \"cryptflow ca init\": %w",
			reason(err), errs.ErrConfig)
	}
	if s.size > maxDenyList {
		return fmt.Errorf("it has more than %d bytes: %w", maxDenyList, errs.ErrConfig)
	}
	raw, err := os.ReadFile(d.path)
	if err != nil {
		return fmt.Errorf("%v: %w", reason(err), errs.ErrConfig)
	}
	list, err := ParseDenyList(raw, d.authority)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(raw)
	number, seen, err := d.seen()
	switch {
	case err != nil:
		return err
	case list.Number < number:
		return fmt.Errorf("it is number %d and number %d was in force here; fetch the newest from the authority: %w",
			list.Number, number, errs.ErrConfig)
	case list.Number == number && seen != "" && seen != hex.EncodeToString(digest[:]):
		return fmt.Errorf("another list with number %d was in force here; the authority must issue the next: %w",
			number, errs.ErrConfig)
	case seen == "" || list.Number > number:
		if err := replace(d.memory, fmt.Appendf(nil, "%d %x\n", list.Number, digest), 0o600); err != nil {
			return err
		}
	}
	d.stamp, d.digest = s, digest
	d.current.Store(list)
	return nil
}

// seen is the number and the digest of the newest list that was obeyed.
func (d *Denied) seen() (number uint64, digest string, err error) {
	raw, err := os.ReadFile(d.memory)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, "", nil
	}
	if err == nil {
		_, err = fmt.Sscanf(strings.TrimSuffix(string(raw), "\n"), "%d %64s", &number, &digest)
	}
	if err != nil {
		return 0, "", fmt.Errorf("%s does not say which list was seen: %v: %w", d.memory, err, errs.ErrConfig)
	}
	return number, digest, nil
}

// List is the list in force.
func (d *Denied) List() *DenyList { return d.current.Load() }

// Check refuses a chain of certificates that the list names.
func (d *Denied) Check(chain []*x509.Certificate) error {
	if d == nil {
		return nil
	}
	return d.current.Load().Denies(chain)
}
