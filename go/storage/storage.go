// Package storage is where services keep what must survive them: Ledger for
// small transactional state, Blobs for bulk. Drivers live in folders of their
// own and pass one conformance suite.
package storage

import (
	"context"
	"io"
)

// Ledger is small transactional state: rows of bytes named by a bucket and a
// key.
type Ledger interface {
	// View reads one consistent snapshot.
	View(ctx context.Context, f func(Reader) error) error
	// Update is serialisable. It is durable when it returns nil; nothing
	// happened when f or the commit fails. f must not keep the Writer.
	Update(ctx context.Context, f func(Writer) error) error
	Close() error
}

// Reader reads rows.
type Reader interface {
	// Get returns nil when the row is absent, and never nil when it is there.
	Get(bucket, key string) ([]byte, error)
	// List calls f in ascending order of keys; f may not write.
	List(bucket, prefix string, f func(key string, value []byte) error) error
}

// Writer also changes rows.
type Writer interface {
	Reader
	Put(bucket, key string, value []byte) error
	Delete(bucket, key string) error
}

// Blobs is bulk storage of immutable byte strings.
type Blobs interface {
	// Create begins a segment that is visible under its name after Commit.
	Create(ctx context.Context, name string) (Segment, error)
	// Open returns an error that wraps errs.ErrStorage when absent.
	Open(ctx context.Context, name string) (Blob, error)
	// Delete returns nil when absent.
	Delete(ctx context.Context, name string) error
	List(ctx context.Context, prefix string, f func(name string) error) error
	Close() error
}

// Segment is a blob being written.
type Segment interface {
	Write(b []byte) (int, error)
	// Commit makes it durable and visible; a blob of that name is replaced.
	Commit() error
	Abort() error
}

// Blob is a committed byte string.
type Blob interface {
	io.ReaderAt
	io.Closer
	// Size is the number of bytes.
	Size() int64
}
