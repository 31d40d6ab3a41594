package tasks

import (
	"context"
	"fmt"
	"slices"
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

// handler returns what runs a job. A name that nobody registered fails the attempt: in a rolling deployment another runner may
// know it.
func (m *Mux) handler(name string) Handler {
	h, ok := m.handlers[name]
	if !ok {
		h = func(context.Context, *Job) ([]byte, error) { return nil, fmt.Errorf("no handler for %q here", name) }
	}
	for _, wrap := range slices.Backward(m.middleware) {
		h = wrap(h)
	}
	return h
}
