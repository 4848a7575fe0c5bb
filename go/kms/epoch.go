package kms

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
)

// epochFile is the newest state of the log that this key service has reached. It
// lies outside the ledger and outside every backup: a ledger that was restored
// ends before it, and the service then refuses to serve, because it could sign a
// second decision on what it has forgotten.
type epochFile struct {
	path string
	mark epochMark
}

// epochMark is what the file holds.
type epochMark struct {
	Epoch uint64    `json:"epoch"` // how often the service was started
	Size  int64     `json:"size"`  // of the log
	Root  tlog.Hash `json:"root"`  // of the log of that size
	// Since is the epoch that the last recovery began: what was signed in earlier
	// ones may be missing from the log, and contradicts nothing that is signed now.
	Since uint64 `json:"since,omitempty"`
	// Fenced is why the service may not serve again before it was recovered.
	Fenced string `json:"fenced,omitempty"`
}

// cure says what to do about a ledger that cannot be served.
const cure = `if the newest ledger still exists, start with that one. Otherwise run "cryptflow kms recover": ` +
	"it gives up every open task, and their admins create new ones"

func openEpoch(folder string) (*epochFile, bool, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, false, fmt.Errorf("making the folder of the epoch: %v: %w", err, errs.ErrConfig)
	}
	e := &epochFile{path: filepath.Join(folder, "epoch.json")}
	b, err := os.ReadFile(e.path)
	if errors.Is(err, fs.ErrNotExist) {
		return e, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &e.mark)
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading %s: %v; %s: %w", e.path, err, cure, errs.ErrRestored)
	}
	return e, true, nil
}

// write replaces the file durably.
func (e *epochFile) write(m epochMark) error {
	b, err := json.Marshal(m)
	if err == nil {
		err = writeFile(e.path, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %v: %w", e.path, err, errs.ErrInternal)
	}
	e.mark = m
	return nil
}

// resume compares the ledger with the epoch, begins the next epoch and records
// it. Two copies of one folder, each started, differ in their logs from here on,
// so that every client that meets both notices.
func (s *Service) resume(ctx context.Context, found bool) error {
	var instance [16]byte
	if _, err := rand.Read(instance[:]); err != nil {
		return fmt.Errorf("naming this start: %w", errs.ErrInternal)
	}
	if err := s.begin(ctx, found); err != nil {
		return err
	}
	return s.update(ctx, func(w storage.Writer) error {
		last, err := audit.Epoch(w)
		if err != nil {
			return err
		}
		if err := s.epoch.check(w, last, found); err != nil {
			return err
		}
		next := max(last, s.epoch.mark.Epoch) + 1
		if err := audit.SetEpoch(w, next); err != nil {
			return err
		}
		_, err = s.record(w, audit.Record{
			Event: audit.Started, Detail: fmt.Sprintf("epoch %d, instance %s", next, hex.EncodeToString(instance[:])),
		})
		return err
	})
}

// begin writes the epoch's file of a ledger that never had one, before the ledger
// says that it has: a service that is killed in between starts again.
func (s *Service) begin(ctx context.Context, found bool) error {
	if found {
		return nil
	}
	mark, last := epochMark{}, uint64(0)
	if err := s.view(ctx, func(r storage.Reader) (err error) {
		if last, err = audit.Epoch(r); err != nil || last > 0 {
			return err
		}
		if mark.Size, err = audit.Size(r); err == nil {
			mark.Root, err = audit.Root(r, mark.Size)
		}
		return err
	}); err != nil || last > 0 {
		return err
	}
	return s.epoch.write(mark)
}

// check returns ErrRestored unless the ledger contains everything up to the mark.
func (e *epochFile) check(r storage.Reader, last uint64, found bool) error {
	size, err := audit.Size(r)
	if err != nil {
		return err
	}
	switch {
	case !found && last > 0:
		return fmt.Errorf("%s is missing although this ledger had one: the ledger was restored from a backup, "+
			"or the file was removed; %s: %w", e.path, cure, errs.ErrRestored)
	case size < e.mark.Size:
		return fmt.Errorf("the ledger has %d log records and this key service wrote %d: "+
			"it was restored from a backup; %s: %w", size, e.mark.Size, cure, errs.ErrRestored)
	case e.mark.Fenced != "":
		return fmt.Errorf("%s: %w", e.mark.Fenced, errs.ErrRestored)
	case e.mark.Size == 0:
		return nil
	}
	root, err := audit.Root(r, e.mark.Size)
	if err != nil {
		return err
	}
	if root != e.mark.Root {
		return fmt.Errorf("the ledger's log is not the one that this key service wrote; %s: %w", cure, errs.ErrRestored)
	}
	return nil
}

// update runs one transaction. When it extended the log, the epoch's file says so
// before anybody is answered; a file that cannot be written ends the service.
func (s *Service) update(ctx context.Context, f func(storage.Writer) error) error {
	if err := s.usable(); err != nil {
		return err
	}
	mark, extended := epochMark{Since: s.epoch.mark.Since}, false
	err := s.c.Ledger.Update(ctx, func(w storage.Writer) (err error) {
		before, err := audit.Size(w)
		if err != nil {
			return err
		}
		if err := f(w); err != nil {
			return err
		}
		if mark.Size, err = audit.Size(w); err != nil || mark.Size == before {
			return err
		}
		extended = true
		if mark.Root, err = audit.Root(w, mark.Size); err != nil {
			return err
		}
		mark.Epoch, err = audit.Epoch(w)
		return err
	})
	if err != nil || !extended {
		return err
	}
	if err := s.epoch.write(mark); err != nil {
		return s.fence(err)
	}
	return nil
}

// fence ends the service for good: every call that changes something is refused
// with the reason.
func (s *Service) fence(why error) error {
	s.fencedMu.Lock()
	defer s.fencedMu.Unlock()
	if s.fenced == nil {
		s.fenced = why
		s.c.Log.Error("this key service serves no more", "error", why.Error())
	}
	return s.fenced
}

// usable returns the reason for which the service was fenced.
func (s *Service) usable() error {
	s.fencedMu.Lock()
	defer s.fencedMu.Unlock()
	return s.fenced
}

// gossip compares a checkpoint that a client saw with the log. One that goes
// further, or elsewhere, was signed by another copy of this service: whichever
// came first, two of them must not go on.
func (s *Service) gossip(r storage.Reader, text string) error {
	if text == "" {
		return nil
	}
	c, err := audit.Open(text, s.c.Name, s.self[:])
	if err != nil {
		return fmt.Errorf("the checkpoint that came with the call: %w", err)
	}
	size, err := audit.Size(r)
	if err != nil || c.Epoch < s.epoch.mark.Since {
		return err
	}
	if c.Size <= size {
		root, err := audit.Root(r, c.Size)
		if err != nil || root == c.Root {
			return err
		}
	}
	why := fmt.Sprintf("a client holds a checkpoint of %d records that this log of %d does not contain: "+
		"another copy of this key service is or was running; stop both, and %s", c.Size, size, cure)
	mark := s.epoch.mark
	mark.Fenced, mark.Epoch = why, max(mark.Epoch, c.Epoch) // a recovery begins a later one
	return s.fence(errors.Join(fmt.Errorf("%s: %w", why, errs.ErrRestored), s.epoch.write(mark)))
}
