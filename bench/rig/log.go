package rig

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"time"
)

// logStep is how often a log is looked at, and so the resolution of what Line says.
const logStep = time.Millisecond

// Line is a line of a server's log, and when it was seen.
type Line struct {
	Text string
	At   time.Time
}

// Mark is the place behind the last whole line of the log: Await looks from there.
func (s *Server) Mark() int64 {
	var at int64
	s.scan(0, func(line []byte) bool {
		at += int64(len(line)) + 1
		return true
	})
	return at
}

// Await waits for the n-th line from mark on that matches. It gives up at the deadline, and when the server ends.
func (s *Server) Await(mark int64, pattern *regexp.Regexp, n int, patience time.Duration) (found Line, err error) {
	deadline, ended := time.Now().Add(patience), false
	for {
		s.scan(mark, func(line []byte) bool {
			mark += int64(len(line)) + 1
			if pattern.Match(line) {
				if n--; n == 0 {
					found = Line{string(line), time.Now()}
					return false
				}
			}
			return true
		})
		switch {
		case n <= 0:
			return found, nil
		case ended:
			return found, fmt.Errorf("the server ended before it said %q:\n%s", pattern, s.Log())
		case time.Now().After(deadline):
			return found, fmt.Errorf("%q was not said within %v:\n%s", pattern, patience, s.Log())
		}
		select {
		case <-s.gone:
			ended = true // and one more look
		case <-time.After(logStep):
		}
	}
}

// scan gives the whole lines from an offset on, until one is enough.
func (s *Server) scan(from int64, each func([]byte) bool) {
	text, _ := io.ReadAll(io.NewSectionReader(s.log, from, 64<<20))
	for {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole || !each(line) {
			return
		}
		text = rest
	}
}
