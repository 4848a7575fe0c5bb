// Package sqlite keeps a ledger in one SQLite file: write-ahead log,
// synchronous=FULL, one writer. Nothing needs to be installed.
//
// # Security
//
// The file and its lock are readable by their owner only. A second process
// that opens the same ledger is refused.
//
// # Compatibility
//
// The file's user_version is the version of its schema.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/lock"
)

// schema is the version of the tables.
const schema = 1

type ledger struct {
	lock   *lock.File
	writer *sql.DB // one connection
	reader *sql.DB
	mu     sync.Mutex
}

// readers is how many snapshots may be read at once.
const readers = 4

// Open opens or makes the ledger in a file.
func Open(path string) (storage.Ledger, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
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
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the ledger: %v: %w", err, errs.ErrConfig)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("opening the ledger: %v: %w", err, errs.ErrConfig)
	}
	connect := func(mode string, n int) (*sql.DB, error) {
		q := url.Values{"_txlock": {mode}, "_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)", "trusted_schema(OFF)"}}
		db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
		if err != nil {
			return nil, classify(err)
		}
		db.SetMaxOpenConns(n)
		db.SetMaxIdleConns(n)
		return db, nil
	}
	if l.writer, err = connect("immediate", 1); err != nil {
		return err
	}
	if l.reader, err = connect("deferred", readers); err != nil {
		return err
	}
	var version int
	if err := l.writer.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return classify(err)
	}
	switch version {
	case schema:
	case 0:
		if _, err := l.writer.Exec(`BEGIN IMMEDIATE;
			CREATE TABLE entries (bucket TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (bucket, key)) WITHOUT ROWID;
			PRAGMA user_version = 1; COMMIT`); err != nil {
			return classify(err)
		}
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

// classify gives an error of SQLite its code.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var s *sqlite.Error
	if errors.As(err, &s) {
		switch s.Code() & 0xff {
		case sqlite3.SQLITE_FULL:
			return fmt.Errorf("the ledger's disk is full: %w", errs.ErrDiskFull)
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return fmt.Errorf("the ledger is damaged; restore it from a backup: %w", errs.ErrStorage)
		}
	}
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the ledger's disk is full: %w", errs.ErrDiskFull)
	}
	return fmt.Errorf("ledger: %w", err)
}

func (l *ledger) View(ctx context.Context, f func(storage.Reader) error) error {
	tx, err := l.reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return classify(err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	return f(&rows{ctx, tx})
}

func (l *ledger) Update(ctx context.Context, f func(storage.Writer) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	tx, err := l.writer.BeginTx(ctx, nil)
	if err != nil {
		return classify(err)
	}
	done := false
	defer func() {
		if !done {
			_ = tx.Rollback() // the error that led here is the one to report
		}
	}()
	if err := f(&rows{ctx, tx}); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	done = true
	return classify(tx.Commit())
}

func (l *ledger) Close() error {
	var all []error
	for _, db := range []*sql.DB{l.reader, l.writer} {
		if db != nil {
			all = append(all, db.Close())
		}
	}
	return errors.Join(append(all, l.lock.Release())...)
}

// rows is one transaction.
type rows struct {
	ctx context.Context
	tx  *sql.Tx
}

func (r *rows) Get(bucket, key string) ([]byte, error) {
	var v []byte
	err := r.tx.QueryRowContext(r.ctx, "SELECT value FROM entries WHERE bucket = ? AND key = ?", bucket, key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err == nil && v == nil {
		v = []byte{}
	}
	return v, classify(err)
}

func (r *rows) List(bucket, prefix string, f func(key string, value []byte) error) (err error) {
	q := "SELECT key, value FROM entries WHERE bucket = ? AND key >= ? ORDER BY key"
	found, err := r.tx.QueryContext(r.ctx, q, bucket, prefix)
	if err != nil {
		return classify(err)
	}
	defer func() { err = errors.Join(err, classify(found.Close())) }()
	for found.Next() {
		var key string
		var value []byte
		if err := found.Scan(&key, &value); err != nil {
			return classify(err)
		}
		if !strings.HasPrefix(key, prefix) {
			return nil
		}
		if value == nil {
			value = []byte{}
		}
		if err := f(key, value); err != nil {
			return err
		}
	}
	return classify(found.Err())
}

func (r *rows) Put(bucket, key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	_, err := r.tx.ExecContext(r.ctx, "INSERT INTO entries (bucket, key, value) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", bucket, key, value)
	return classify(err)
}

func (r *rows) Delete(bucket, key string) error {
	_, err := r.tx.ExecContext(r.ctx, "DELETE FROM entries WHERE bucket = ? AND key = ?", bucket, key)
	return classify(err)
}
