package devmode

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is built by itself: programs of the module here, by what they say of themselves, or by their name.
func TestBuilds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	builds := func(programs ...string) string {
		t.Helper()
		b, err := Builds(dir, programs)
		if err != nil {
			return err.Error()
		}
		return lines(b)
	}
	if got := builds("bin/app"); got != "" {
		t.Errorf("without a module: %s", got)
	}
	put("go.mod", "// a comment\nmodule example.com/shop // the shop\n\ngo 1.26\n")
	put("cmd/app/main.go", "package main\nfunc main() {}\n")
	put("main.go", "package main\nfunc main() {}\n")
	put("script", "#!/bin/sh\n")
	for programs, want := range map[string]string{
		"bin/app":             "go build -o bin/app ./cmd/app",
		"./bin/app bin/app":   "go build -o bin/app ./cmd/app",
		"bin/shop":            "go build -o bin/shop .",
		"bin/app shop":        "go build -o bin/app ./cmd/app && go build -o shop .",
		"script":              "",
		"/usr/bin/sleep":      "",
		"../elsewhere/app":    "",
		"bin/nobody":          fmt.Sprintf("%s/bin/nobody is not there, and neither is ./cmd/nobody to build it from: say how, as in --build 'go build -o bin/nobody ./cmd/NAME'", dir),
		dir + "/bin/app":      "go build -o bin/app ./cmd/app",
		"bin/app /no/such/it": "go build -o bin/app ./cmd/app",
	} {
		if got := builds(strings.Fields(programs)...); got != want {
			t.Errorf("%s: %s\nwant %s", programs, got, want)
		}
	}
	// One that was built says from what, whatever its name.
	if out, err := runCommand(t.Context(), dir, []string{"go", "build", "-o", "bin/other", "./cmd/app"}); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := builds("bin/other"); got != "go build -o bin/other ./cmd/app" {
		t.Error(got)
	}
	put("go.mod", "module example.com/another\n")
	if got := builds("bin/other"); got != "" {
		t.Errorf("of another module: %s", got)
	}
}
