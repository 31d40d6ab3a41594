package tasks

import (
	"context"
	"strings"

	"supervisor/pkg/tracecontext"
)

// A job belongs to the trace of what enqueued it. Nothing of it is there, in Redis or in a runner, for jobs without one.

// Trace says for whom the job is done. Without it that is what tracecontext.From says of the context of the enqueue: in a handler its own job's
// trace, so all that follows from a request has its name. Jobs that follow (Then) have the trace of the first.
func Trace(c tracecontext.Context) Option {
	return func(p *plan) {
		if p.extra.trace = ""; c.Valid() {
			p.extra.trace = encodeTrace(c)
		}
	}
}

// traced adds the trace of a context to the options of a job, which may have one of their own.
func traced(ctx context.Context, options []Option) []Option {
	c, ok := tracecontext.From(ctx)
	if !ok {
		return options
	}
	return append([]Option{Trace(c)}, options...)
}

func encodeTrace(c tracecontext.Context) string {
	if c.State == "" {
		return c.Parent()
	}
	return c.Parent() + " " + c.State
}

// decodeTrace reads what the extra has. What it cannot read is no trace: that is no reason not to run a job.
func decodeTrace(text string) tracecontext.Context {
	parent, state, _ := strings.Cut(text, " ")
	c, _ := tracecontext.Parse(parent)
	if c.Valid() {
		c.State, _ = tracecontext.ParseState(state)
	}
	return c
}
