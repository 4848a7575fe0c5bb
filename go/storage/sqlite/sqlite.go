// Package sqlite keeps a ledger in one SQLite file: write-ahead log,
// synchronous=FULL, one writer. Nothing needs to be installed.
//
// # Security
//
// The file and its lock are readable by their owner only. A second process
// that opens the same ledger is refused. Damage to the structure of the file
// is reported; SQLite does not checksum values, so callers sign or hash what
// must not change unnoticed.
//
// # Durability
//
// After an error of the disk while writing nobody knows what the file holds:
// the ledger then refuses every further change until it is opened again, when
// SQLite recovers what was acknowledged.
//
// # Compatibility
//
// The file's user_version is the version of its schema.
package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver called sqlite

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/disk"
	"github.com/cryptflow/cryptflow/go/storage/lock"
)

// schema is the version of the tables.
const schema = 1

// readers is how many snapshots may be read at once.
const readers = 4

// Open opens or makes the ledger in a file.
func Open(path string) (storage.Ledger, error) {
	if err := disk.Mkdir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("making the ledger's folder: %v: %w", err, errs.ErrConfig)
	}
	held, err := lock.Acquire(path + ".lock")
	if err != nil {
		return nil, err
	}
	l := &ledger{lock: held}
	if err := l.open(path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *ledger) open(path string) error {
	if err := own(path); err != nil {
		return fmt.Errorf("opening the ledger: %v: %w", err, errs.ErrConfig)
	}
	var err error
	if l.writer, err = connect(path, "immediate", 1); err != nil {
		return err
	}
	if l.reader, err = connect(path, "deferred", readers, "query_only(ON)"); err != nil {
		return err
	}
	var version, tables int
	if err := l.writer.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return classify(err)
	}
	if err := l.writer.QueryRow("SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return classify(err)
	}
	switch {
	case version == schema:
	case version == 0 && tables == 0:
		if _, err := l.writer.Exec(`BEGIN IMMEDIATE;
			CREATE TABLE entries (bucket TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (bucket, key)) WITHOUT ROWID;
			PRAGMA user_version = 1; COMMIT`); err != nil {
			return classify(err)
		}
	case version == 0:
		return fmt.Errorf("%s is a database of another program; name another file: %w", path, errs.ErrConfig)
	default:
		return fmt.Errorf("the ledger %s has format %d and this program knows %d; use the program that wrote it: %w", path, version, schema, errs.ErrConfig)
	}
	var check string
	if err := l.writer.QueryRow("PRAGMA quick_check(1)").Scan(&check); err != nil {
		return classify(err)
	}
	if check != "ok" {
		return fmt.Errorf("the ledger %s is damaged; restore it from a backup: %w", path, errs.ErrStorage)
	}
	return nil
}

// own makes the file where it is missing and closes it to others. SQLite gives
// its log the same mode.
func own(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close(), disk.Sync(filepath.Dir(path)))
}

// connect opens a pool of n connections whose transactions begin in a mode.
func connect(path, mode string, n int, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"_txlock": {mode}, "_pragma": append([]string{
		"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "fullfsync(ON)", "trusted_schema(OFF)", "secure_delete(ON)",
	}, pragmas...)}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, classify(err)
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}
