package operator

import (
	"embed"
	"html/template"
	"io/fs"
	"strings"
)

//go:embed files
var files embed.FS

// Asset gives a file that all pages load: operator.css, operator.js.
func Asset(name string) ([]byte, error) { return files.ReadFile("files/" + name) }

// Parse adds a program's own pages to those that all have: head, login, confirm, ask, action. It must define their gaps: "assets", the links to its style
// sheets and scripts; "name", what all of it is called; "token", where the operator finds it. Files that are wrong end the program: they are part of it.
func Parse(own fs.FS, patterns ...string) *template.Template {
	pages := template.Must(template.ParseFS(files, "files/*.html"))
	return template.Must(pages.ParseFS(own, patterns...))
}

// Policy is the Content-Security-Policy of all pages: nothing but their own files, no script or style within them, no frame around them.
const Policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Headers are those of every page. The policy is among them.
var Headers = map[string]string{
	"Content-Security-Policy":      Policy,
	"Cache-Control":                "no-store",
	"Referrer-Policy":              "same-origin",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Cross-Origin-Resource-Policy": "same-origin",
}

// Question is what is asked before a change: a sentence, and what else there is to know.
type Question string

// First is the sentence.
func (q Question) First() string {
	first, _, _ := strings.Cut(string(q), "?")
	return first + "?"
}

// Rest is what follows it.
func (q Question) Rest() string {
	_, rest, _ := strings.Cut(string(q), "?")
	return strings.TrimSpace(rest)
}

// Action is a button that changes something, for the template "action". Without a script its form leads to a page that asks Question; with one
// the page itself does.
type Action struct {
	Action, Verb, Of, Question, CSRF, Back string
	Danger                                 bool
}
