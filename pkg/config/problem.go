package config

import (
	"fmt"
	"sort"
	"strings"
)

// Error is all that is wrong with a configuration, so that an operator mends it in one go.
type Error struct {
	Problems []Problem

	machine bool // found by Check: the values are fine, but not on this machine as it is
}

// Problem is one thing that is wrong.
type Problem struct {
	Key  string // dotted, as in pool.web.workers; "" when it is about a whole file or flag
	Text string // what is wrong, and what would be right

	from    origin
	address bool // about an address that cannot be bound
}

func (p Problem) String() string {
	parts := []string{p.Text}
	if p.Key != "" {
		parts = []string{p.Key, p.Text}
	}
	if p.from.kind != fromDefault {
		parts = append([]string{p.from.String()}, parts...)
	}
	return strings.Join(parts, ": ")
}

// Error gives one problem a line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Usage reports whether only the command line is at fault.
func (e *Error) Usage() bool {
	return !e.machine && e.all(func(p Problem) bool { return p.from.kind == fromFlag })
}

// Bind reports whether all problems are addresses that cannot be bound.
func (e *Error) Bind() bool {
	return e.all(func(p Problem) bool { return p.address })
}

func (e *Error) all(is func(Problem) bool) bool {
	for _, p := range e.Problems {
		if !is(p) {
			return false
		}
	}
	return len(e.Problems) > 0
}

// problems collects what is wrong while going on.
type problems []Problem

func (ps *problems) add(from origin, key, format string, args ...any) {
	*ps = append(*ps, Problem{Key: key, Text: fmt.Sprintf(format, args...), from: from})
}

// err gives the error, or nil: the file's problems in the order of its lines, then those of the environment and the flags.
func (ps problems) err() *Error {
	if len(ps) == 0 {
		return nil
	}
	sort.SliceStable(ps, func(i, j int) bool { return ps[i].from.before(ps[j].from) })
	return &Error{Problems: ps}
}

// origin is where a value came from.
type origin struct {
	kind originKind
	name string // the file, variable or flag
	line int    // in the file, from 1
	note string // the value as written, where it was resolved; or that it is not shown
}

// originKind is in the order of precedence: the later wins.
type originKind int

const (
	fromDefault originKind = iota
	fromFile
	fromEnvironment
	fromFlag
)

func (o origin) String() string {
	switch o.kind {
	case fromFile:
		if o.line == 0 {
			return o.name
		}
		return fmt.Sprintf("%s:%d", o.name, o.line)
	case fromEnvironment:
		return "environment " + o.name
	case fromFlag:
		if o.name == "" {
			return "command line"
		}
		return "flag --" + o.name
	}
	return "default"
}

// describe says it with what was noted of the value.
func (o origin) describe() string {
	if o.note == "" {
		return o.String()
	}
	return o.String() + ", " + o.note
}

func (o origin) before(other origin) bool {
	if o.kind != other.kind {
		return o.kind < other.kind
	}
	return o.line < other.line
}

// Nearest gives the candidate that a misspelt word probably means, or "".
func Nearest(word string, candidates []string) string {
	plain := func(s string) string { return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s)) }
	best, bestDistance := "", len(plain(word))/3+1
	for _, c := range candidates {
		if d := editDistance(plain(word), plain(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// didYouMean gives the tail of an error about a misspelt word.
func didYouMean(word string, candidates []string) string {
	if c := Nearest(word, candidates); c != "" {
		return fmt.Sprintf("; did you mean %s?", c)
	}
	return ""
}

// editDistance counts the letters to insert, remove or exchange (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
