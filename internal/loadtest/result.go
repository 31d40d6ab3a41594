package loadtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Class is the way in which a request failed.
type Class int

const (
	DialRefused  Class = iota // nobody listens
	DialFailed                // any other failure to connect; EADDRNOTAVAIL means that we ran out of ports ourselves
	ResetSending              // the connection broke before the request was sent
	ResetWaiting              // reset after sending, before the first byte of the answer
	NoAnswer                  // orderly end of the connection after sending, without an answer
	Truncated                 // the connection ended within the answer
	Unanswered                // pipelined behind an answer that said "Connection: close"
	Malformed                 // not an HTTP/1.1 answer
	WrongStatus               // not 200
	WrongBody                 // not the body that was sent
	WrongNonce                // the answer to another request
	Stray                     // bytes that no request asked for
	TimedOut                  // no complete answer within Plan.Timeout
	Retried                   // net/http's client sent it more than once
	classes
)

func (c Class) String() string {
	return [classes]string{"dial refused", "dial failed", "reset while sending", "reset while waiting", "closed without answer",
		"truncated answer", "unanswered behind close", "malformed answer", "wrong status", "wrong body", "answer of another request",
		"stray bytes", "timed out", "retried in secret"}[c]
}

// Counts is what clients of one kind saw.
type Counts struct {
	OK     int64
	Failed [classes]int64

	Opened int64 // connections that the clients opened
	// Connections that the server closed although the client would have gone on (OneShot: never counted).
	Announced int64 // after an answer with "Connection: close"
	Silent    int64 // without a word: between two requests, or instead of an answer
	Reset     int64 // by a reset, at any time
}

// AllFailed is the sum of all classes.
func (c Counts) AllFailed() (n int64) {
	for _, f := range c.Failed {
		n += f
	}
	return n
}

// ServerClosed is the sum of all closes by the server.
func (c Counts) ServerClosed() int64 { return c.Announced + c.Silent + c.Reset }

func (c *Counts) add(other Counts) {
	c.OK += other.OK
	for class, n := range other.Failed {
		c.Failed[class] += n
	}
	c.Opened += other.Opened
	c.Announced += other.Announced
	c.Silent += other.Silent
	c.Reset += other.Reset
}

// Failure is one failed request, for the eye.
type Failure struct {
	After  time.Duration // since the start of the run
	Opened time.Duration // the same, of the connection's dial
	Port   int           // the client's end of it; 0: never connected, not TCP, or one of net/http's
	Client int
	Kind   Kind
	Class  Class
	Served int    // answers that this connection had brought before
	Worker string // who gave the last of them; "" on a new connection
	Err    error
}

func (f Failure) String() string {
	s := fmt.Sprintf("%8.3fs client %d (%s): %s", f.After.Seconds(), f.Client, f.Kind, f.Class)
	if f.Served > 0 {
		s += fmt.Sprintf(", after %d answers, the last by worker %q", f.Served, f.Worker)
	} else {
		s += ", new connection"
	}
	if f.Err != nil {
		s += ": " + f.Err.Error()
	}
	return s
}

// maxFailures is how many Failures a client keeps, and maxShown how many of all a Result shows.
const (
	maxFailures = 1000
	maxShown    = 10
)

// Result is what all clients saw.
type Result struct {
	Elapsed time.Duration
	Counts  // all kinds together
	Kinds   [kinds]Counts
	// KeptAlive is all kinds but OneShot: those that should see no close at all while workers are replaced.
	KeptAlive Counts
	Workers   map[string]int64        // right answers by worker
	Failures  []Failure               // in the order of time; at most maxFailures of each client
	Latency   *hdrhistogram.Histogram // of right answers, in microseconds; a pipelined one from the sending of its batch
}

// PerSecond is the throughput of right answers.
func (r Result) PerSecond() float64 { return float64(r.OK) / r.Elapsed.Seconds() }

// Spread is the busiest worker's number of answers by the idlest one's, among those that answered at all.
func (r Result) Spread() float64 {
	if len(r.Workers) == 0 {
		return 0
	}
	answers := slices.Sorted(maps.Values(r.Workers))
	return float64(answers[len(answers)-1]) / float64(answers[0])
}

// FailedAfter returns the failures on connections whose last answer came from this worker: what a kill of it may cost.
func (r Result) FailedAfter(worker string) (failures []Failure) {
	for _, f := range r.Failures {
		if f.Served > 0 && f.Worker == worker {
			failures = append(failures, f)
		}
	}
	return failures
}

// Err is nil if something was answered, no request failed, and no kept-alive connection was closed by the server.
func (r Result) Err() error {
	switch {
	case r.AllFailed() > 0 || r.KeptAlive.ServerClosed() > 0:
		return fmt.Errorf("%d of %d requests failed, %d kept-alive connections closed by the server\n%s",
			r.AllFailed(), r.AllFailed()+r.OK, r.KeptAlive.ServerClosed(), r)
	case r.OK == 0:
		return errors.New("no request was answered")
	}
	return nil
}

// String is the whole result as a table.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d right answers in %.2f s: %.0f/s", r.OK, r.Elapsed.Seconds(), r.PerSecond())
	if r.Latency != nil && r.OK > 0 {
		fmt.Fprintf(&b, "; ms: p50 %.1f, p99 %.1f, p99.9 %.1f, max %.1f", ms(r.Latency.ValueAtQuantile(50)),
			ms(r.Latency.ValueAtQuantile(99)), ms(r.Latency.ValueAtQuantile(99.9)), ms(r.Latency.Max()))
	}
	b.WriteString("\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "client\tright\tfailed\topened\tclosed: announced\tsilent\treset\t\n")
	row := func(name string, c Counts) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", name, c.OK, c.AllFailed(), c.Opened, c.Announced, c.Silent, c.Reset)
	}
	for kind, c := range r.Kinds {
		if c != (Counts{}) {
			row(Kind(kind).String(), c)
		}
	}
	row("all", r.Counts)
	w.Flush()
	for class, n := range r.Counts.Failed {
		if n > 0 {
			fmt.Fprintf(&b, "failed: %d %s\n", n, Class(class))
		}
	}
	for i, f := range r.Failures {
		if i == maxShown {
			fmt.Fprintf(&b, "  and %d more\n", r.AllFailed()-maxShown)
			break
		}
		fmt.Fprintf(&b, "  %s\n", f)
	}
	if n := len(r.Workers); n > 0 {
		fmt.Fprintf(&b, "answers by %d workers, spread %.2f:", n, r.Spread())
		for i, worker := range slices.Sorted(maps.Keys(r.Workers)) {
			if i == 2*maxShown {
				b.WriteString(" …")
				break
			}
			fmt.Fprintf(&b, " %s=%d", worker, r.Workers[worker])
		}
		b.WriteString("\n")
	}
	return b.String()
}

func ms(us int64) float64 { return float64(us) / 1000 }
