package service

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestALogIsNotFilledByACaller: whatever a caller does, and however long what
// it says, the log has a few lines of it and a count.
func TestALogIsNotFilledByACaller(t *testing.T) {
	var out bytes.Buffer
	q := newQuiet(slog.NewTextHandler(&out, nil))
	log := slog.New(q).With("service", "kms")
	refuse := func(caller string) {
		log.Info("refused", "method", "/m", "caller", caller, "code", "CF_NO_TASK", "error", strings.Repeat("z", 1<<20))
	}
	for range 5000 {
		refuse("one")
	}
	for i := range 5000 {
		refuse(fmt.Sprint("many ", i))
	}
	if n := out.Len(); n > 2<<20 {
		t.Fatalf("%d bytes of log", n)
	}
	if n := strings.Count(out.String(), "caller=one"); n != maxAlike {
		t.Errorf("%d lines of one caller, want %d", n, maxAlike)
	}
	if !strings.Contains(out.String(), "(1048576 bytes)") {
		t.Error("a cut value does not say how long it was")
	}
	if n := len(q.all.kinds); n > maxKinds+1 {
		t.Errorf("%d kinds are kept", n)
	}
	out.Reset()
	q.flush(time.Now().Add(2 * time.Minute))
	if !strings.Contains(out.String(), fmt.Sprintf("… and %d more like it in the last minute", 5000-maxAlike)) {
		t.Errorf("the rest was not counted: %.300s", out.String())
	}
	if len(q.all.kinds) != 0 {
		t.Error("kinds of minutes that are over are kept")
	}
	out.Reset()
	for range 3 * maxAlike {
		log.Info("round", "task", "t", "state", "SEALED")
	}
	if n := strings.Count(out.String(), "SEALED"); n != 3*maxAlike {
		t.Errorf("%d of the service's own lines, want all", n)
	}
}
