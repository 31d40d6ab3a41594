package tasks

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Handler does a job. Its result is kept for whoever asks. An error is a failed attempt, tried again later unless it wraps
// ErrSkipRetry; a panic is an error. An error that says that something is away or full (Again, ErrUnavailable, ErrFull,
// ErrQueueFull) is not an attempt. When ctx ends the handler should return soon: context.Cause tells why.
type Handler func(ctx context.Context, job *Job) (result []byte, err error)

// Middleware wraps handlers.
type Middleware func(Handler) Handler

// Mux finds the handler by a job's name. Register everything before a runner starts.
type Mux struct {
	handlers   map[string]Handler
	middleware []Middleware
}

// NewMux returns an empty one.
func NewMux() *Mux { return &Mux{handlers: make(map[string]Handler)} }

// Handle registers the handler of a name. A name has one.
func (m *Mux) Handle(name string, h Handler) {
	if _, taken := m.handlers[name]; taken {
		panic(fmt.Sprintf("tasks: two handlers for %q", name))
	}
	m.handlers[name] = h
}

// Use adds middleware around all handlers; the first is the outermost.
func (m *Mux) Use(middleware ...Middleware) { m.middleware = append(m.middleware, middleware...) }

// Names gives those that have a handler, in order.
func (m *Mux) Names() []string { return slices.Sorted(maps.Keys(m.handlers)) }

func (m *Mux) knows(name string) bool { return m.handlers[name] != nil }

// handler returns what runs a job whose name is known.
func (m *Mux) handler(name string) Handler {
	h := m.handlers[name]
	for _, wrap := range slices.Backward(m.middleware) {
		h = wrap(h)
	}
	return h
}

const namesShown = 20 // in an error

// quoted lists names for people.
func quoted(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	words := make([]string, 0, namesShown+1)
	for _, name := range names[:min(len(names), namesShown)] {
		words = append(words, strconv.Quote(name))
	}
	if more := len(names) - namesShown; more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	return strings.Join(words, ", ")
}
