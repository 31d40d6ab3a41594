// Package profile takes profiles of the process that it runs in: its goroutines, its memory, its CPU time. Nothing is sampled, and nothing costs
// anything, until somebody asks. It imports the standard library only, since every program that imports pkg/worker links it.
package profile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/pprof"
	"time"
)

// Kind is what a profile is of.
type Kind string

// Kinds. Goroutines are text, the others what `go tool pprof` reads.
const (
	Goroutines Kind = "goroutines"
	Heap       Kind = "heap"   // what is in use, as of the last garbage collection; none is forced
	Allocs     Kind = "allocs" // the same samples, by all that was ever allocated
	CPU        Kind = "cpu"    // 100 samples a second and core, for a time
)

// Valid reports whether there is such a kind.
func (k Kind) Valid() bool { return k == Goroutines || k.Binary() }

// Binary reports whether the profile is nothing for a terminal.
func (k Kind) Binary() bool { return k == Heap || k == Allocs || k == CPU }

const (
	// MaxSize bounds a profile, in bytes. Text is cut there; a profile that is larger is an error, since half of one is of no use.
	MaxSize = 64 << 20
	// MaxTime bounds a CPU profile.
	MaxTime = 10 * time.Minute

	// The stacks of all goroutines, one by one, are written while the whole process stands still: 10 to 20 µs each, 5 ms for 500 here. More are
	// shown by place and number, for which nobody stands still.
	maxSingle = 500
)

// ErrBusy says that a CPU profile runs already: a process can have one, also of its own making.
var ErrBusy = errors.New("a CPU profile of this process runs already, and there can be one at a time")

// turn lets one be taken after the other, CPU profiles aside: each is a copy of all that it shows.
var turn = make(chan struct{}, 1)

// Take takes a profile. A CPU profile takes d, the others ignore it; the end of ctx ends it early, and is an error.
func Take(ctx context.Context, k Kind, d time.Duration) ([]byte, error) {
	out := &bounded{}
	if k == CPU {
		err := cpu(ctx, out, d)
		return out.of(err)
	}
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	switch k {
	case Goroutines:
		debug := 2 // one by one
		if runtime.NumGoroutine() > maxSingle {
			debug = 1
		}
		out.cuts = true
		return out.of(pprof.Lookup("goroutine").WriteTo(out, debug))
	case Heap, Allocs:
		return out.of(pprof.Lookup(string(k)).WriteTo(out, 0))
	}
	return nil, fmt.Errorf("there is no profile %q", k)
}

func cpu(ctx context.Context, out *bounded, d time.Duration) error {
	if d <= 0 || d > MaxTime {
		return fmt.Errorf("a CPU profile of %v: it takes up to %v", d, MaxTime)
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return ErrBusy
	}
	defer pprof.StopCPUProfile() // which writes it
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// bounded keeps what is written, up to MaxSize. It is no bytes.Buffer itself: io.Copy would go around Write.
type bounded struct {
	kept bytes.Buffer
	cuts bool // what is too much is left out
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := MaxSize - b.kept.Len(); len(p) > room {
		b.over = true
		if b.cuts {
			b.kept.Write(p[:room])
			return len(p), nil
		}
		return 0, errTooLarge
	}
	return b.kept.Write(p)
}

var errTooLarge = fmt.Errorf("the profile is larger than %d MiB", MaxSize>>20)

// of gives what was written.
func (b *bounded) of(err error) ([]byte, error) {
	if err == nil && b.over && !b.cuts {
		err = errTooLarge // its writer did not look
	}
	if err != nil {
		return nil, err
	}
	return b.kept.Bytes(), nil
}
