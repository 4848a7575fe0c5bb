package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/storage/lock"
)

type ledger struct {
	lock    *lock.File
	writer  *sql.DB // one connection: those who want it queue
	reader  *sql.DB
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
	broken bool // a write failed and left the disk in doubt
}

// enter keeps Close waiting until leave.
func (l *ledger) enter() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("the ledger is closed: %w", errs.ErrBadHandle)
	}
	l.running.Add(1)
	return nil
}

func (l *ledger) leave() { l.running.Done() }

// doubt remembers an error of the disk met by the writer.
func (l *ledger) doubt(err error) {
	if code(err)&0xff == sqlite3.SQLITE_IOERR {
		l.mu.Lock()
		l.broken = true
		l.mu.Unlock()
	}
}

func (l *ledger) usable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return fmt.Errorf("the disk failed while the ledger was written and nothing more is written to it; look at the disk, then restart: %w", errs.ErrInternal)
	}
	return nil
}

// transaction runs f between a begin and, when both want it, a commit. The
// connection never sees ctx: an interrupt in the middle of a commit would hide
// whether it happened. Statements look at ctx before they run.
func transaction(ctx context.Context, db *sql.DB, readOnly bool, f func(*rows) error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return classify(err)
	}
	defer conn.Close()
	tx, err := conn.BeginTx(context.WithoutCancel(ctx), &sql.TxOptions{ReadOnly: readOnly})
	if err != nil {
		return classify(err)
	}
	open := true
	defer func() {
		if open && tx.Rollback() != nil {
			// Where SQLite rolled back by itself nothing is lost; a
			// connection that did not must not be used again.
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		}
	}()
	r := &rows{ctx: ctx, tx: tx}
	if err := f(r); err != nil {
		return r.told(err)
	}
	if r.failed != nil {
		return r.failed
	}
	if readOnly {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return classify(err)
	}
	open = false
	return classify(tx.Commit())
}

func (l *ledger) View(ctx context.Context, f func(storage.Reader) error) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.leave()
	return transaction(ctx, l.reader, true, func(r *rows) error { return f(r) })
}

func (l *ledger) Update(ctx context.Context, f func(storage.Writer) error) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.leave()
	err := transaction(ctx, l.writer, false, func(r *rows) error {
		if err := l.usable(); err != nil {
			return err
		}
		return f(r)
	})
	l.doubt(err)
	return err
}

// Scrub moves what is in the write-ahead log into the database, where deleted
// rows are overwritten, and empties the log. What readers still look at stays in
// the log until they are done: Scrub then does nothing, and the next one does.
func (l *ledger) Scrub(ctx context.Context) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.leave()
	_, err := l.writer.ExecContext(context.WithoutCancel(ctx), "PRAGMA wal_checkpoint(TRUNCATE)")
	return classify(err)
}

// Close waits for what runs, then closes. It may be called again.
func (l *ledger) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.running.Wait()
	var all []error
	for _, db := range []*sql.DB{l.reader, l.writer} {
		if db != nil {
			all = append(all, classify(db.Close()))
		}
	}
	return errors.Join(append(all, l.lock.Release())...)
}
