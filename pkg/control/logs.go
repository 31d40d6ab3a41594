package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// LogLine is a line that a worker, a hook or the supervisor wrote.
type LogLine struct {
	At     time.Time `json:"at"`     // when the supervisor read it; its lines of one moment have one time
	Worker string    `json:"worker"` // web.2.17; "web before_start" is a hook, SupervisorName ourselves
	Stream string    `json:"stream"` // stdout or stderr
	Text   string    `json:"text"`

	// Lost is set by a line without text in a stream: so many came faster than the reader took them.
	Lost uint64 `json:"lost,omitempty"`
}

// SupervisorName is the Worker of our own log lines.
const SupervisorName = "supervisor"

// About reports whether the line is from a pool (web; hooks included), a slot (web.2), a process (web.2.17) or "supervisor"; from "" is everything.
func (l LogLine) About(what string) bool {
	return Names(what, l.Worker) || strings.HasPrefix(l.Worker, what+" ")
}

// Logs is the answer of GET /v1/logs: of each slot the latest lines that fit into a bounded memory, also of workers that are gone.
type Logs struct {
	Lines []LogLine `json:"lines"` // in the order in which they were read
}

// LogQuery says which lines.
type LogQuery struct {
	What   string    // see LogLine.About
	Stderr bool      // only of stderr
	Newest int       // at most so many of those that there are, the newest; 0: all
	After  time.Time // only later ones
}

// Values writes it as a query.
func (q LogQuery) Values() url.Values {
	v := url.Values{}
	if q.What != "" {
		v.Set("what", q.What)
	}
	if q.Stderr {
		v.Set("stderr", "1")
	}
	if q.Newest > 0 {
		v.Set("n", strconv.Itoa(q.Newest))
	}
	if !q.After.IsZero() {
		v.Set("after", q.After.Format(time.RFC3339Nano))
	}
	return v
}

// ParseLogQuery reads what Values wrote.
func ParseLogQuery(v url.Values) (q LogQuery, err error) {
	q.What, q.Stderr = v.Get("what"), v.Get("stderr") != ""
	if text := v.Get("n"); text != "" {
		if q.Newest, err = strconv.Atoi(text); err != nil || q.Newest < 0 {
			return q, fmt.Errorf("n=%q is no number of lines", text)
		}
	}
	if text := v.Get("after"); text != "" {
		if q.After, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return q, fmt.Errorf("after=%q is no time", text)
		}
	}
	return q, nil
}

// Logs asks for lines.
func (c *Client) Logs(ctx context.Context, q LogQuery) (Logs, error) {
	var l Logs
	err := c.ask(ctx, http.MethodGet, PathLogs+"?"+q.Values().Encode(), nil, &l)
	return l, err
}

// FollowLogs calls each with the lines that there are, and then with those that come, as FollowHistory does.
func (c *Client) FollowLogs(ctx context.Context, q LogQuery, each func(LogLine) error) error {
	path := func() string {
		v := q.Values()
		v.Set("follow", "1")
		return PathLogs + "?" + v.Encode()
	}
	return c.follow(ctx, path, func(line []byte) error {
		var l LogLine
		if err := json.Unmarshal(line, &l); err != nil {
			return fmt.Errorf("unexpected answer: %w: is that a supervisor's socket?", err)
		}
		if l.At.After(q.After) {
			q.After = l.At
		}
		q.Newest = 0
		return each(l)
	})
}
