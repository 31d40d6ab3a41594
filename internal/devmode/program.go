package devmode

import (
	"bufio"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Builds gives the commands that build programs of the Go module in dir, one for each: `go build -o bin/app ./cmd/app`. What a program was built
// from it says itself; one that is not there yet is taken for that of ./cmd/NAME. Programs of no module, or of another one, are left out. An
// error says that nobody knows how to build one that is missing.
func Builds(dir string, programs []string) ([][]string, error) {
	module, err := moduleOf(dir)
	if err != nil || module == "" {
		return nil, err
	}
	var builds [][]string
	for _, program := range programs {
		if !filepath.IsAbs(program) {
			program = filepath.Join(dir, program)
		}
		rel := below(dir, filepath.Clean(program))
		if rel == "" {
			continue // it is installed elsewhere
		}
		source, err := sourceOf(dir, module, program)
		if err != nil {
			return nil, err
		}
		argv := []string{"go", "build", "-o", rel, source}
		if source != "" && !slices.ContainsFunc(builds, func(b []string) bool { return slices.Equal(b, argv) }) {
			builds = append(builds, argv)
		}
	}
	return builds, nil
}

// sourceOf gives the package of a program, as go build takes it; "": it is none of the module's.
func sourceOf(dir, module, program string) (string, error) {
	info, err := buildinfo.ReadFile(program)
	switch {
	case err == nil && info.Main.Path == module && info.Path != "command-line-arguments":
		return "./" + strings.TrimPrefix(strings.TrimPrefix(info.Path, module), "/"), nil
	case err == nil, !errors.Is(err, fs.ErrNotExist):
		return "", nil // a script, or somebody else's
	}
	name := filepath.Base(program)
	if found, _ := filepath.Glob(filepath.Join(dir, "cmd", name, "*.go")); len(found) > 0 {
		return "./cmd/" + name, nil
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "main.go")); len(found) > 0 && name == path.Base(module) {
		return ".", nil
	}
	return "", fmt.Errorf("%s is not there, and neither is ./cmd/%s to build it from: say how, as in --build 'go build -o %s ./cmd/NAME'", program, name,
		below(dir, program))
}

// moduleOf reads the module's path in go.mod; "": there is none.
func moduleOf(dir string) (string, error) {
	f, err := os.Open(filepath.Join(dir, "go.mod"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if words := strings.Fields(in.Text()); len(words) > 1 && words[0] == "module" {
			return strings.Trim(words[1], `"`+"`"), nil
		}
	}
	return "", nil
}
