package dashboard

import (
	"bytes"
	"encoding/json"
	"html/template"
	"maps"
	"slices"
)

// A frame is all that pages show at a moment: lists of pieces.
type frame struct {
	lists []*list // an outer one before those within its pieces
}

// list is a place on the page whose pieces come and go: an element with data-list.
type list struct {
	name   string
	pieces []*piece
}

// piece is an element with data-piece. It is rendered anew when its shape is another one; its cells and sparklines change in place.
type piece struct {
	key      string
	template string
	shape    any // comparable: all that the template shows of its own
	cells    map[string]string
	sparks   map[string]*series
	inner    []*list // lists within it: only for a whole page
	html     template.HTML
}

func (f *frame) add(name string, pieces ...*piece) *list {
	l := &list{name, pieces}
	f.lists = append(f.lists, l)
	return l
}

// Cell is an element whose text changes, for templates.
func (p *piece) Cell(name string) template.HTML {
	return template.HTML(`<span data-cell="` + name + `">` + template.HTMLEscapeString(p.cells[name]) + `</span>`)
}

// Spark is a sparkline, for templates. It is a picture of numbers that stand beside it.
func (p *piece) Spark(name string) template.HTML {
	return template.HTML(`<svg class="spark" data-spark="` + name + `" viewBox="0 0 120 30" preserveAspectRatio="none" aria-hidden="true"><polyline points="` +
		p.sparks[name].line() + `"/></svg>`)
}

// Shape is what the template shows.
func (p *piece) Shape() any { return p.shape }

// Key is the piece's name among all.
func (p *piece) Key() string { return p.key }

// Inner is one of the lists within the piece, as HTML.
func (p *piece) Inner(name string) template.HTML {
	for _, l := range p.inner {
		if l.name == name {
			return l.html()
		}
	}
	return ""
}

// List is one of the frame's lists, for the template of the page.
func (f *frame) List(name string) template.HTML {
	for _, l := range f.lists {
		if l.name == name {
			return l.html()
		}
	}
	return ""
}

// render gives the piece as it is now. A frame is not changed after it was made, so this is done once.
func (p *piece) render() template.HTML {
	if p.html == "" {
		var out bytes.Buffer
		if err := pages.ExecuteTemplate(&out, p.template, p); err != nil {
			panic(err) // the templates are part of the program
		}
		p.html = template.HTML(bytes.TrimSpace(out.Bytes()))
	}
	return p.html
}

func (l *list) html() template.HTML {
	var out bytes.Buffer
	for _, p := range l.pieces {
		out.WriteString(string(p.render()))
	}
	return template.HTML(out.String())
}

// message is what a page gets; doc.go describes it.
type message struct {
	Lists  []listChange                 `json:"lists,omitempty"`
	Cells  map[string]map[string]string `json:"cells,omitempty"`
	Points map[string]map[string]int    `json:"points,omitempty"`
	Lines  map[string]map[string]string `json:"lines,omitempty"`
	Say    []string                     `json:"say,omitempty"`
}

type listChange struct {
	Name string            `json:"name"`
	Keys []string          `json:"keys,omitempty"`
	Made map[string]string `json:"made,omitempty"`
}

func (m message) encode() []byte {
	var out bytes.Buffer
	to := json.NewEncoder(&out)
	to.SetEscapeHTML(false) // it stands in no page
	if err := to.Encode(m); err != nil {
		panic(err) // texts and numbers only
	}
	return bytes.TrimSpace(out.Bytes())
}

// whole is a frame as a message. Lists within pieces are rendered with them.
func (f *frame) whole() message {
	var m message
	inner := map[string]bool{}
	for _, l := range f.lists {
		for _, p := range l.pieces {
			for _, within := range p.inner {
				inner[within.name] = true
			}
		}
	}
	for _, l := range f.lists {
		if inner[l.name] {
			continue
		}
		c := listChange{Name: l.name, Keys: keysOf(l), Made: map[string]string{}}
		for _, p := range l.pieces {
			c.Made[p.key] = string(p.render())
		}
		m.Lists = append(m.Lists, c)
	}
	return m
}

func keysOf(l *list) []string {
	keys := make([]string, len(l.pieces))
	for i, p := range l.pieces {
		keys[i] = p.key
	}
	return keys
}

// since gives what has changed from one frame to another. sampled: sparklines have a new point.
func (f *frame) since(before *frame, sampled bool) message {
	m := message{Cells: map[string]map[string]string{}, Points: map[string]map[string]int{}, Lines: map[string]map[string]string{}}
	old := map[string]*list{}
	known := map[string]*piece{}
	for _, l := range before.lists {
		old[l.name] = l
		for _, p := range l.pieces {
			known[p.key] = p
		}
	}
	fresh := map[string]bool{} // lists that came with their piece
	for _, l := range f.lists {
		if fresh[l.name] {
			continue
		}
		c := listChange{Name: l.name, Made: map[string]string{}}
		keys := keysOf(l)
		if was := old[l.name]; was == nil || !slices.Equal(keysOf(was), keys) {
			c.Keys = keys
			if len(keys) == 0 {
				c.Keys = []string{""} // none: omitted it would mean that nothing changed
			}
		}
		for _, p := range l.pieces {
			was := known[p.key]
			if was == nil || was.template != p.template || was.shape != p.shape {
				c.Made[p.key] = string(p.render())
				for _, within := range p.inner {
					fresh[within.name] = true
				}
				continue
			}
			m.change(was, p, sampled)
		}
		if c.Keys != nil || len(c.Made) > 0 {
			m.Lists = append(m.Lists, c)
		}
	}
	return m
}

// change notes what is different within a piece.
func (m *message) change(was, p *piece, sampled bool) {
	for _, name := range slices.Sorted(maps.Keys(p.cells)) {
		if was.cells[name] != p.cells[name] {
			put(m.Cells, p.key, name, p.cells[name])
		}
	}
	for name, s := range p.sparks {
		switch {
		case !sampled || len(s.values) == 0:
		case s.moved:
			put(m.Lines, p.key, name, s.line())
		default:
			put(m.Points, p.key, name, s.y(s.values[len(s.values)-1]))
		}
	}
}

func put[V any](to map[string]map[string]V, piece, name string, value V) {
	if to[piece] == nil {
		to[piece] = map[string]V{}
	}
	to[piece][name] = value
}
