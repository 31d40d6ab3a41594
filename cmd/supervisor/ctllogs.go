package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"supervisor/pkg/control"
)

var logsCommand = ctlCommand{
	name: "logs", args: "[WHAT]", brief: []string{"what workers have written lately, also those that are gone; \"supervisor\" is its own log"},
	more: `   The supervisor keeps the latest lines of every slot, all together 1 MiB: a slot that writes much loses its own lines
   first. All lines there ever were are where errorlog and accesslog send them. A reader that is too slow for --follow
   loses lines, and is told how many; nobody waits for it.

EXAMPLES
   supervisor ctl logs web.2 -n 20                 the last words of a slot, whatever process they are from
   supervisor ctl logs jobs --stderr --follow
   supervisor ctl logs --json | jq -r .lines[].text
`,
	options: []option{
		{"number", "n", "N", "the newest N; 100, with --follow 10; 0: all there is", false},
		{"stderr", "", "", "only what was written to stderr", false},
		followOption,
	},
	words: 1, names: writerName, run: ctlLogs,
}

// ctlLogs prints lines.
func ctlLogs(ctx context.Context, c *client, to *control.Client) error {
	newest, err := c.number(100, 10)
	if err != nil {
		return err
	}
	q := control.LogQuery{What: strings.Join(c.words, ""), Stderr: c.has("stderr"), Newest: newest}
	show := func(l control.LogLine) error { return writeLogLine(c.stdout, l) }
	switch {
	case isTerminal(c.stdout) && !c.has("json"):
		show = func(l control.LogLine) error {
			l.Text = plain(l.Text)
			return writeLogLine(c.stdout, l)
		}
	case c.has("json"):
		show = func(l control.LogLine) error { return json.NewEncoder(c.stdout).Encode(l) }
	}
	if c.has("follow") {
		return to.FollowLogs(ctx, q, show)
	}
	logs, err := to.Logs(ctx, q)
	if err != nil {
		return err
	}
	if c.has("json") {
		return printJSON(c.stdout, logs)
	}
	if len(logs.Lines) == 0 { // a slot may be gone, so an unknown one is no error, but silence looks like a quiet worker
		fmt.Fprintf(c.stderr, "supervisor ctl: no lines are kept of %s\n", cmp.Or(q.What, "any worker"))
	}
	for _, l := range logs.Lines {
		if err := show(l); err != nil {
			return err
		}
	}
	return nil
}

func writeLogLine(w io.Writer, l control.LogLine) error {
	var err error
	if l.Lost > 0 {
		_, err = fmt.Fprintf(w, "[%d lines are lost: they came faster than they were taken]\n", l.Lost)
	} else {
		_, err = fmt.Fprintf(w, "[%s] %s\n", l.Worker, l.Text)
	}
	return err
}
