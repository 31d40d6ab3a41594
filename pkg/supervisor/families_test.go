package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/metrics.md ends with a table of all families. UPDATE_DOCS=1 writes it.
func TestMetricsAreDocumented(t *testing.T) {
	const file, heading = "../../docs/metrics.md", "Beside these there are `go_*` and `process_*` of the supervisor itself.\n\n"
	var table strings.Builder
	table.WriteString("| name | kind | labels | |\n|---|---|---|---|\n")
	row := func(f *family) {
		labels := strings.Join(f.labels, ", ")
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", f.name, f.kind, labels, strings.ReplaceAll(f.help, "|", `\|`))
	}
	for _, f := range families {
		row(f)
	}
	table.WriteString("\nNamed by `app`, and by runners of jobs:\n\n| name | kind | labels | |\n|---|---|---|---|\n")
	for _, f := range workerFamilies {
		row(f)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	intro, found, ok := strings.Cut(string(text), heading)
	switch {
	case !ok:
		t.Fatalf("%s has lost its last heading", file)
	case found == table.String():
	case os.Getenv("UPDATE_DOCS") != "":
		if err := os.WriteFile(file, []byte(intro+heading+table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the table in %s is not what the code says: UPDATE_DOCS=1 go test ./pkg/supervisor -run %s", file, t.Name())
	}
}

// Whatever our own programs name has words on /metrics.
func TestNamesOfOurProgramsHaveWords(t *testing.T) {
	name := regexp.MustCompile("[\"`]((?:jobs|job_runner|db|http|access_log|cache)_[a-z_]+)[\"`{]")
	seen := 0
	for _, dir := range []string{"../../cmd/app", "../app"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range name.FindAllStringSubmatch(string(text), -1) {
				named := strings.TrimSuffix(strings.TrimSuffix(match[1], endBucket), endSum)
				if !slices.ContainsFunc(workerFamilies, func(f *family) bool { return f.name == named }) {
					t.Errorf("%s names %s: families.go has no words about it", file, named)
				}
				seen++
			}
		}
	}
	if seen < len(workerFamilies)/2 {
		t.Errorf("only %d names were found: is the pattern still right?", seen)
	}
}
