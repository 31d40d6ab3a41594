package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/bmatcuk/doublestar/v4"
)

// Dev is the section [dev]: what --reload does. Paths are relative to the directory in which the supervisor was started.
type Dev struct {
	Reload bool     // watch files, build, and reload on success
	Watch  []string // globs
	Extra  []string // globs, too: besides those
	Ignore []string // globs of files and directories that are not watched: see internal/devmode
	Build  []string // argv; empty: what internal/devmode finds
}

func devDefaults() Dev {
	return Dev{
		Watch: []string{"**/*.go", "go.mod", "go.sum", "templates/**", "static/**"},
		// .git and what editors keep for a moment (.x.go.swp, x.go~, #x.go#) do not count, nor does what the build writes. A test is no new code.
		Ignore: []string{".*", "*~", "#*#", "*_test.go", "/bin", "vendor", "node_modules", "testdata"},
	}
}

// devSettings are the keys of [dev]; also SUPERVISOR_DEV_<KEY> in the environment.
var devSettings = []setting[Dev]{
	{"reload", boolKind{}, "reload", "", func(d *Dev) any { return &d.Reload }},
	{"watch", globsKind{}, "", "", func(d *Dev) any { return &d.Watch }},
	{"reload_extra_files", globsKind{}, "reload-extra-file", "", func(d *Dev) any { return &d.Extra }},
	{"ignore", globsKind{}, "", "", func(d *Dev) any { return &d.Ignore }},
	{"build", lineKind{}, "build", "", func(d *Dev) any { return &d.Build }},
}

// globsKind is a list of patterns for files. In a variable they are words.
type globsKind struct{}

func (globsKind) parse(v any, to any) (string, error) {
	const what = `a list of patterns: write ["**/*.go", "templates/**"]`
	var globs []string
	switch x := v.(type) {
	case []any:
		for _, e := range x {
			s, ok := e.(string)
			if !ok {
				return "", fmt.Errorf("its pattern %v is not a text: write it in quotes", e)
			}
			globs = append(globs, s)
		}
	case literals:
		for _, s := range x {
			globs = append(globs, string(s))
		}
	case literal:
		var err error
		if globs, err = splitWords(string(x)); err != nil {
			return "", err
		}
	default:
		return "", want(v, what)
	}
	for _, g := range globs {
		if g == "" || !doublestar.ValidatePattern(g) {
			return "", fmt.Errorf("%q is not a pattern such as **/*.html", g)
		}
	}
	*to.(*[]string) = globs
	return "", nil
}

func (globsKind) show(from any) string { return quoteList(*from.(*[]string)) }

// lineKind is a command that is one text on the command line, since it stands behind a flag.
type lineKind struct{}

func (lineKind) parse(v any, to any) (string, error) {
	return argvKind{optional: true}.parse(one(v), to)
}

func (lineKind) show(from any) string { return argvKind{}.show(from) }

// devDraining is what workers with addresses have to finish when files are watched, unless something else was said: who saves a file waits for
// it, and a browser that holds on to a stream is to see the new code.
const devDraining = 2 * time.Second

// validateDev fits the other settings to it.
func (l *loader) validateDev() {
	if !l.cfg.Dev.Reload {
		return
	}
	for _, p := range l.cfg.Pools {
		key := poolKey(p, "graceful_timeout")
		if from := l.cfg.sources[key]; from.kind == fromDefault && len(p.Bind) > 0 && !l.broken[key] {
			p.GracefulTimeout = devDraining
			from.note = "with reload"
			l.cfg.sources[key] = from
		}
	}
}

// Files gives the files that a configuration was read from, for who watches them.
func (c *Config) Files() []string {
	var files []string
	for _, from := range c.sources {
		if from.kind == fromFile && !slices.Contains(files, from.name) {
			files = append(files, from.name)
		}
	}
	for _, p := range c.Pools {
		if p.EnvFile != "" && !slices.Contains(files, p.EnvFile) {
			files = append(files, p.EnvFile)
		}
	}
	return files
}
