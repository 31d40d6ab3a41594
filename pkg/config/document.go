package config

import (
	"errors"
	"fmt"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// entry is one key or section header of a TOML file, in the file's order, which a map would lose.
type entry struct {
	path   []string
	line   int
	table  bool // a header, or an inline table, whose keys follow
	inList bool // [[…]], or a key below one
	value  any
}

// parseDocument gives a file's entries. Its error names the line and the column.
func parseDocument(data []byte) (_ []entry, line int, err error) {
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		var decode *toml.DecodeError
		if errors.As(err, &decode) {
			row, column := decode.Position()
			return nil, row, fmt.Errorf("column %d: %s", column, trimTOML(err.Error()))
		}
		return nil, 0, err
	}
	d := document{tree: tree}
	d.parser.Reset(data)
	var section []string
	inList := false
	for d.parser.NextExpression() {
		switch n := d.parser.Expression(); n.Kind {
		case unstable.Table, unstable.ArrayTable:
			var line int
			section, line = d.key(nil, n)
			inList = n.Kind == unstable.ArrayTable || d.belowList(section)
			d.entries = append(d.entries, entry{path: section, line: line, table: true, inList: inList})
		case unstable.KeyValue:
			d.add(section, inList, n)
		}
	}
	return d.entries, 0, d.parser.Error()
}

func trimTOML(s string) string {
	if len(s) > 6 && s[:6] == "toml: " {
		return s[6:]
	}
	return s
}

type document struct {
	parser  unstable.Parser
	tree    map[string]any
	entries []entry
}

// add takes one key = value, and the keys of an inline table one by one.
func (d *document) add(section []string, inList bool, n *unstable.Node) {
	path, line := d.key(section, n)
	if n.Value().Kind != unstable.InlineTable {
		d.entries = append(d.entries, entry{path: path, line: line, inList: inList, value: d.lookup(path)})
		return
	}
	d.entries = append(d.entries, entry{path: path, line: line, table: true, inList: inList})
	for children := n.Value().Children(); children.Next(); {
		d.add(path, inList, children.Node())
	}
}

// key gives a node's full dotted key and its line.
func (d *document) key(section []string, n *unstable.Node) (path []string, line int) {
	path = append(path, section...)
	for parts := n.Key(); parts.Next(); {
		if line == 0 {
			line = d.parser.Shape(parts.Node().Raw).Start.Line
		}
		path = append(path, string(parts.Node().Data))
	}
	return path, line
}

// lookup gives the value of a key, nil below a list of tables.
func (d *document) lookup(path []string) any {
	var v any = d.tree
	for _, part := range path {
		table, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = table[part]
	}
	return v
}

// belowList reports whether a section belongs to an element of a list of tables.
func (d *document) belowList(path []string) bool {
	for i := range path {
		if _, ok := d.lookup(path[:i+1]).([]any); ok {
			return true
		}
	}
	return false
}
