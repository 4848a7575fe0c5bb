package params_test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/cryptflow/cryptflow/go/"

// graph lists every package of the module with its imports and all it
// reaches, tests excluded.
func graph(t *testing.T) (imports, reaches map[string][]string) {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}|{{join .Imports " "}}|{{join .Deps " "}}`, module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	imports, reaches = map[string][]string{}, map[string][]string{}
	for line := range strings.Lines(string(out)) {
		parts := strings.Split(strings.TrimSpace(line), "|")
		if len(parts) != 3 {
			t.Fatalf("go list printed %q", line)
		}
		room := strings.TrimPrefix(parts[0], module)
		imports[room], reaches[room] = strings.Fields(parts[1]), strings.Fields(parts[2])
	}
	return imports, reaches
}

const (
	lattigo = "github.com/tuneinsight/lattigo"
	arrow   = "github.com/apache/arrow"
)

func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// TestRoomsReachOnlyWhatTheyMay keeps keys and plaintexts out of the
// aggregator's program text, whatever comes between.
func TestRoomsReachOnlyWhatTheyMay(t *testing.T) {
	_, reaches := graph(t)
	for room, forbidden := range map[string][]string{
		"aggregator": {module + "encoding", module + "ckks", module + "seal", module + "kms", lattigo},
		"fold":       {module + "encoding", module + "ckks", module + "seal", module + "task", lattigo, arrow},
		"frame":      {module + "encoding", module + "ckks", module + "seal", module + "task", lattigo, arrow},
		"kms":        {module + "fold", module + "seal", module + "encoding", module + "aggregator", arrow},
		"task":       {module + "encoding", module + "ckks", module + "seal", lattigo, arrow},
		"encoding":   {module + "ckks", module + "frame", lattigo, arrow},
		"ckks":       {module + "encoding", module + "fold", arrow},
	} {
		if _, ok := reaches[room]; !ok {
			t.Errorf("room %s does not exist", room)
		}
		for _, path := range reaches[room] {
			for _, f := range forbidden {
				if within(path, f) {
					t.Errorf("%s reaches %s", room, path)
				}
			}
		}
	}
}

// TestOnlyOneRoomImportsEachLibrary, and fold and frame import next to
// nothing.
func TestOnlyOneRoomImportsEachLibrary(t *testing.T) {
	imports, _ := graph(t)
	for room, paths := range imports {
		for _, path := range paths {
			if within(path, lattigo) && room != "ckks" {
				t.Errorf("%s imports %s; only ckks may", room, path)
			}
			if within(path, arrow) && !within(room, "arrowio") {
				t.Errorf("%s imports %s; only arrowio may", room, path)
			}
			if (within(path, "modernc.org/sqlite") || path == "database/sql") && room != "storage/sqlite" {
				t.Errorf("%s imports %s; only its driver may", room, path)
			}
		}
	}
	for room, allowed := range map[string][]string{
		"errs":     nil,
		"params":   {"errs"},
		"frame":    {"errs", "params", "kernel"}, // kernel is a leaf: arithmetic on slices
		"fold":     {"errs", "params", "frame"},
		"encoding": {"errs", "params", "kernel"},
		"ckks":     {"errs", "params", "frame", "kernel"},
		"kernel":   nil,
		"seal":     {"errs", "params", "frame", "encoding", "ckks", "tag", "spread"},
		"spread":   {"errs"},
		"tag":      {"kernel"},
		"privacy":  {"errs"},
	} {
	paths:
		for _, path := range imports[room] {
			if !strings.HasPrefix(path, module) {
				continue
			}
			for _, a := range allowed {
				if path == module+a {
					continue paths
				}
			}
			t.Errorf("%s imports %s", room, path)
		}
	}
}
