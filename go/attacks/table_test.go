package attacks

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryAttackHasItsTest: each row of docs/attacks.md names tests, and each
// of them exists.
func TestEveryAttackHasItsTest(t *testing.T) {
	const root = "../.."
	defined := map[string]bool{}
	tests := regexp.MustCompile(`(?m)^(?:func|def) ([Tt]est\w+)\(`)
	for _, folder := range []string{"go", "python/tests"} {
		if err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, ".py") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range tests.FindAllSubmatch(b, -1) {
				defined[string(m[1])] = true
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(filepath.Join(root, "docs/attacks.md"))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	named := regexp.MustCompile("`([Tt]est\\w+)`")
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| attack") || strings.HasPrefix(line, "| ---") {
			continue
		}
		if rows++; len(cells) != 4 {
			t.Errorf("a row of %d cells: %s", len(cells), line)
			continue
		}
		found := named.FindAllStringSubmatch(cells[3], -1)
		if len(found) == 0 {
			t.Errorf("no test: %s", cells[0])
		}
		for _, m := range found {
			if listed[m[1]] = true; !defined[m[1]] {
				t.Errorf("%s does not exist: %s", m[1], cells[0])
			}
		}
	}
	if rows == 0 {
		t.Fatal("the page has no rows")
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range tests.FindAllSubmatch(b, -1) {
			if name := string(m[1]); !listed[name] && name != "TestMain" && name != "TestEveryAttackHasItsTest" {
				t.Errorf("%s is on no row of docs/attacks.md", name)
			}
		}
	}
}
