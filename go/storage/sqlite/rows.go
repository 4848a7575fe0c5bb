package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/cryptflow/cryptflow/go/errs"
)

// rows is one transaction.
type rows struct {
	ctx    context.Context
	tx     *sql.Tx
	lists  int   // calls of List that are under way
	failed error // of the first statement that failed
}

// ready refuses everything after a statement that failed: SQLite may have
// rolled back by itself, and the next statement would then be a transaction of
// its own.
func (r *rows) ready() error {
	if r.failed != nil {
		return r.failed
	}
	return classify(r.ctx.Err())
}

func (r *rows) fail(err error) error {
	if err = classify(err); err != nil && r.failed == nil {
		r.failed = err
	}
	return err
}

// told is the error of a transaction's function, with the first failure where
// it does not tell of it.
func (r *rows) told(err error) error {
	if r.failed == nil || errors.Is(err, r.failed) {
		return err
	}
	return errors.Join(err, r.failed)
}

func (r *rows) statement(q string, args ...any) error {
	if err := r.ready(); err != nil {
		return err
	}
	if r.lists > 0 {
		return fmt.Errorf("a change while rows are listed: %w", errs.ErrState)
	}
	_, err := r.tx.ExecContext(context.WithoutCancel(r.ctx), q, args...)
	return r.fail(err)
}

func (r *rows) Get(bucket, key string) ([]byte, error) {
	if err := r.ready(); err != nil {
		return nil, err
	}
	var v []byte
	err := r.tx.QueryRowContext(context.WithoutCancel(r.ctx), "SELECT value FROM entries WHERE bucket = ? AND key = ?", bucket, key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, r.fail(err)
	}
	if v == nil {
		v = []byte{}
	}
	return v, nil
}

func (r *rows) List(bucket, prefix string, f func(key string, value []byte) error) (err error) {
	if err := r.ready(); err != nil {
		return err
	}
	found, err := r.tx.QueryContext(context.WithoutCancel(r.ctx), "SELECT key, value FROM entries WHERE bucket = ? AND key >= ? ORDER BY key", bucket, prefix)
	if err != nil {
		return r.fail(err)
	}
	r.lists++
	defer func() {
		r.lists--
		err = errors.Join(err, r.fail(found.Close()))
	}()
	for found.Next() {
		var key string
		var value []byte
		if err := found.Scan(&key, &value); err != nil {
			return r.fail(err)
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
		if err := r.ready(); err != nil {
			return err
		}
	}
	return r.fail(found.Err())
}

func (r *rows) Put(bucket, key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	return r.statement("INSERT INTO entries (bucket, key, value) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", bucket, key, value)
}

func (r *rows) Delete(bucket, key string) error {
	return r.statement("DELETE FROM entries WHERE bucket = ? AND key = ?", bucket, key)
}
