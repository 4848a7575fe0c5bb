package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/cryptflow/cryptflow/go/errs"
)

// code is SQLite's extended code of an error, 0 when it has none.
func code(err error) int {
	var s *sqlite.Error
	if errors.As(err, &s) {
		return s.Code()
	}
	return 0
}

// classify gives an error of SQLite its sentinel, once.
func classify(err error) error {
	if err == nil || errs.Find(err) != errs.ErrInternal {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("ledger: %w: %w", errs.ErrCancelled, err)
	case errors.Is(err, sql.ErrTxDone):
		return fmt.Errorf("the ledger's transaction is over: %w", errs.ErrState)
	}
	c := code(err)
	switch c {
	case sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS, sqlite3.SQLITE_IOERR_DATA:
		c = sqlite3.SQLITE_CORRUPT
	}
	switch c & 0xff {
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("the ledger: %w: %w", errs.ErrDiskFull, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("the ledger is damaged, restore it from a backup: %w: %w", errs.ErrStorage, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("another program holds the ledger's file: %w: %w", errs.ErrUnavailable, err)
	case sqlite3.SQLITE_TOOBIG:
		return fmt.Errorf("the ledger: %w: %w", errs.ErrLimit, err)
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return fmt.Errorf("the ledger's file cannot be written, look at its owner and mode: %w: %w", errs.ErrConfig, err)
	}
	return fmt.Errorf("the ledger: %w: %w", errs.ErrInternal, err)
}
