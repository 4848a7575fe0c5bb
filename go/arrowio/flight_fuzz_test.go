package arrowio

import (
	"bytes"
	"errors"
	"testing"

	"github.com/apache/arrow/go/v15/arrow/flight"

	"github.com/cryptflow/cryptflow/go/errs"
)

// FuzzFlight: whatever two messages say, decoding them ends in an error with a
// code or in frames that lie in the body that was sent, and takes no more
// memory than was allowed.
func FuzzFlight(f *testing.F) {
	add := func(r recorder) {
		if len(r) == 2 {
			f.Add(r[0].DataHeader, r[0].DataBody, r[1].DataHeader, r[1].DataBody, r[1].AppMetadata)
		}
	}
	add(stream("u", makeFrames(1, 3, 40), 1<<10))
	add(stream("u", [][]byte{{1}}, 1))
	for _, c := range hostileCases() {
		if total := 0; len(c.messages) == 2 {
			for _, m := range c.messages {
				total += len(m.DataHeader) + len(m.DataBody)
			}
			if total < 4<<10 {
				add(c.messages)
			}
		}
	}
	f.Fuzz(func(t *testing.T, schema, schemaBody, batch, body, metadata []byte) {
		const limit = 1 << 16
		messages := recorder{{FlightDescriptor: named("u"), DataHeader: schema, DataBody: schemaBody}, {DataHeader: batch, DataBody: body, AppMetadata: metadata}}
		in, err := newBatches(&replay{messages}, limit)
		for n := 0; err == nil; n++ {
			frames, _, next := in.next()
			if err = next; err != nil || frames == nil {
				break
			}
			if n > 0 {
				t.Fatal("two batches out of one message")
			}
			for i := range frames.Len() {
				if v := frames.Value(i); len(v) == 0 || !bytes.Contains(body, v) {
					t.Fatalf("frame %d of %d bytes was never sent", i, len(v))
				}
			}
		}
		if err != nil && !errors.Is(err, errs.ErrArrow) && !errors.Is(err, errs.ErrLimit) {
			t.Fatalf("an error of another code: %v", err)
		}
	})
}

// FuzzMessage: a message's description is read without leaving it.
func FuzzMessage(f *testing.F) {
	for _, m := range stream("u", makeFrames(1, 3, 40), 1<<10) {
		f.Add(m.DataHeader, m.DataBody, true)
		f.Add(m.DataHeader, m.DataBody, false)
		f.Add(m.DataHeader[:len(m.DataHeader)/2], m.DataBody, false)
	}
	f.Fuzz(func(t *testing.T, header, body []byte, first bool) {
		if _, err := checkMessage(&flight.FlightData{DataHeader: header, DataBody: body}, first); err != nil && !errors.Is(err, errs.ErrArrow) {
			t.Fatalf("an error of another code: %v", err)
		}
	})
}
