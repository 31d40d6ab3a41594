// Package devmode is what supervisor --reload does: it watches files, builds when one has changed, and asks for a reload when the build
// succeeds. What does not compile is shown in the terminal, and what runs runs on.
//
//	files.go    which files count, and how a change is noticed     build.go    the command, and its output
//	program.go  what to build where nobody says                    screen.go   what people see
//
// A Mode is one goroutine: it tells the supervisor's loop nothing but "reload", and hears the verdict. Linux only.
package devmode

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quietTime is how long no further file may change until a build begins: an editor writes several files to save one, a checkout hundreds.
	quietTime = 100 * time.Millisecond
	// longestWait bounds that, for a file that is written all the time. What comes later starts the build again.
	longestWait = 5 * time.Second
)

// Options say what is watched and what to do then.
type Options struct {
	Dir    string   // absolute; patterns are relative to it, commands run in it
	Watch  []string // globs (doublestar)
	Ignore []string // of files and directories, as in .gitignore: see rule
	Files  []string // single files besides, absolute or relative to Dir
	Build  [][]string
	// Reload asks for a reload. verdict may be called from any goroutine, and is at most once.
	Reload func(verdict func(ok bool, text string))
	Out    io.Writer // what people look at
}

// Mode watches. Only used by one goroutine at a time: First, then Run.
type Mode struct {
	Options
	files    *files
	screen   screen
	quiet    time.Duration // quietTime
	longest  time.Duration // longestWait
	verdicts chan verdict
	limited  bool // it was said that not everything is watched
}

type verdict struct {
	ok   bool
	text string
}

// New begins to watch. Its error says what to do about the kernel's limit, if that is it.
func New(o Options) (*Mode, error) {
	f, err := watchFiles(o)
	if err != nil {
		return nil, err
	}
	return &Mode{
		Options: o, files: f, screen: screen{out: o.Out}, quiet: quietTime, longest: longestWait, verdicts: make(chan verdict, 16),
	}, nil
}

// Close ends the watching.
func (m *Mode) Close() { m.files.close() }

// Describe says in a line what is watched and built.
func (m *Mode) Describe() string {
	built := "nothing is built"
	if len(m.Build) > 0 {
		built = "built with " + lines(m.Build)
	}
	directories := "1 directory"
	if n := len(m.files.watched); n != 1 {
		directories = fmt.Sprintf("%d directories", n)
	}
	return fmt.Sprintf("watching %s for %s; %s", directories, strings.Join(m.Watch, " "), built)
}

// First builds until that succeeds, so that no code is started that is older than what lies here. It returns the end of ctx.
func (m *Mode) First(ctx context.Context) error {
	if len(m.Build) == 0 {
		return ctx.Err()
	}
	m.screen.say("building: %s", lines(m.Build))
	return m.loop(ctx, true)
}

// Run builds and reloads whenever something changes, until ctx ends.
func (m *Mode) Run(ctx context.Context) { m.loop(ctx, false) }

// loop owns everything. With first it begins with a build, and returns after one that succeeds; else it goes on for ever.
func (m *Mode) loop(ctx context.Context, first bool) error {
	var began time.Time // of the first change that is not built yet
	settle := time.NewTimer(0)
	if !settle.Stop() {
		<-settle.C
	}
	var running *build
	defer func() { running.stop() }()
	if first {
		running = startBuild(m.Options)
	}
	for {
		noted := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)

		case e := <-m.files.watcher.Events:
			var err error
			if noted, err = m.files.note(e); err != nil && !m.limited {
				m.limited = true
				m.screen.frame("not everything is watched", err.Error(), "what is watched goes on")
			}

		case err := <-m.files.watcher.Errors:
			if err == fsnotify.ErrEventOverflow {
				m.files.noteAll()
				noted = true
				break
			}
			m.screen.say("watching files: %v", err)

		case <-settle.C:
			began = time.Time{}
			changed := m.files.changed()
			if len(changed) == 0 {
				break
			}
			running.stop() // two at once would write the same file
			running = nil
			if len(m.Build) == 0 {
				m.screen.say("%s: reloading", summary(changed))
				m.reload()
				break
			}
			m.screen.say("%s: building", summary(changed))
			running = startBuild(m.Options)

		case r := <-running.result():
			running = nil
			switch {
			case r.err != nil && first:
				m.screen.frame(r.title(), r.text(), "nothing runs yet: save a file to try again, Ctrl-C to give up")
			case r.err != nil:
				m.screen.frame(r.title(), r.text(), "the old code serves on: save a file to try again")
			case first:
				m.screen.say("built in %v", r.took)
				return nil
			default:
				m.screen.say("built in %v, reloading", r.took)
				m.reload()
			}

		case v := <-m.verdicts:
			if !v.ok {
				m.screen.frame("the reload failed", v.text, "the old code serves on: save a file to try again")
				break
			}
			m.screen.say("%s", v.text)
		}
		if noted {
			now := time.Now()
			if began.IsZero() {
				began = now
			}
			settle.Reset(min(m.quiet, m.longest-now.Sub(began)))
		}
	}
}

func (m *Mode) reload() {
	m.Reload(func(ok bool, text string) {
		select {
		case m.verdicts <- verdict{ok, text}:
		default: // nobody has looked for a long time
		}
	})
}

// summary names what has changed, in a few words.
func summary(changed []string) string {
	switch n := len(changed); n {
	case 1:
		return changed[0] + " has changed"
	case 2:
		return changed[0] + " and " + changed[1] + " have changed"
	default:
		return fmt.Sprintf("%s and %d more files have changed", changed[0], n-1)
	}
}
