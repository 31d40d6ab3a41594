// Package tracecontext reads and writes W3C Trace Context (the Recommendation, level 1, with the random flag of level 2): the name that all
// work for one cause has, whichever program does it.
//
//	traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//	             version, trace id, id of the span that asks, flags
//	tracestate:  vendor=value,other=value         what tracing systems on the way have to say to each other
//
// It reads strictly: what is not of that form is as good as nothing, and a new trace begins. It records no spans and exports nothing, so no tracing
// SDK is needed: the names go through requests, log lines, jobs and what these ask of others, for whoever collects them.
package tracecontext

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
)

// Flags of a trace.
const (
	Sampled byte = 1 // who asks may have recorded it
	Random  byte = 2 // at least the last seven bytes of the trace id were made at random

	known = Sampled | Random // others are to be passed on as zero
)

// TraceID names a trace, SpanID one piece of its work. All zero is none.
type (
	TraceID [16]byte
	SpanID  [8]byte
)

func (id TraceID) String() string { return hex.EncodeToString(id[:]) }
func (id SpanID) String() string  { return hex.EncodeToString(id[:]) }

// Context says for whom something is done: the trace, and the span that asks for it.
type Context struct {
	Trace TraceID
	Span  SpanID
	Flags byte
	State string // tracestate, well-formed; "" none
}

// New begins a trace. Its ids are random, not secret.
func New() (c Context) {
	for c.Trace == (TraceID{}) {
		binary.LittleEndian.PutUint64(c.Trace[:8], rand.Uint64())
		binary.LittleEndian.PutUint64(c.Trace[8:], rand.Uint64())
	}
	c.Flags = Random
	return c.Child()
}

// Child is a new span of the same trace.
func (c Context) Child() Context {
	for {
		binary.LittleEndian.PutUint64(c.Span[:], rand.Uint64())
		if c.Span != (SpanID{}) {
			return c
		}
	}
}

// Valid reports whether there is a trace.
func (c Context) Valid() bool { return c.Trace != TraceID{} && c.Span != SpanID{} }

const (
	traceAt, spanAt, flagsAt = 3, 36, 53
	parentSize               = 55 // of version 00; later ones may say more behind a further dash
)

// AppendParent appends the value of traceparent, 55 bytes.
func (c Context) AppendParent(to []byte) []byte {
	to = append(to, "00-"...)
	to = hex.AppendEncode(to, c.Trace[:])
	to = append(to, '-')
	to = hex.AppendEncode(to, c.Span[:])
	to = append(to, '-')
	return hex.AppendEncode(to, []byte{c.Flags})
}

// Parent gives the value of traceparent.
func (c Context) Parent() string { return string(c.AppendParent(make([]byte, 0, parentSize))) }

// Parse reads the value of traceparent, without white space around it. Of a version that it does not know it reads what version 00 has.
func Parse[Text string | []byte](value Text) (c Context, ok bool) {
	var version, flags [1]byte
	if len(value) < parentSize || value[traceAt-1] != '-' || value[spanAt-1] != '-' || value[flagsAt-1] != '-' {
		return Context{}, false
	}
	ok = decode(version[:], value[:traceAt-1]) && decode(c.Trace[:], value[traceAt:spanAt-1]) && decode(c.Span[:], value[spanAt:flagsAt-1]) &&
		decode(flags[:], value[flagsAt:parentSize])
	switch {
	case !ok || !c.Valid() || version[0] == 0xff:
		return Context{}, false
	case len(value) > parentSize && (version[0] == 0 || value[parentSize] != '-'):
		return Context{}, false
	}
	c.Flags = flags[0] & known
	return c, true
}

// decode reads hexadecimal digits, the lower-case ones only.
func decode[Text string | []byte](to []byte, from Text) bool {
	for i := range to {
		high, low := digit(from[2*i]), digit(from[2*i+1])
		if high|low > 15 {
			return false
		}
		to[i] = high<<4 | low
	}
	return true
}

func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

type contextKey struct{}

// With gives a context that knows for whom work is done.
func With(ctx context.Context, c Context) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// From gives what With has put there; ok is false when nobody did.
func From(ctx context.Context) (c Context, ok bool) {
	c, ok = ctx.Value(contextKey{}).(Context)
	return c, ok
}
