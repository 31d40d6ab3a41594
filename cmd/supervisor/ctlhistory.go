package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

var historyCommand = ctlCommand{
	name: "history", args: "[WHAT]", brief: []string{
		"what has happened, and why each worker went: reason, life, requests, exit, last words of a crash",
	},
	more: `   Without --all and --kind it leaves out how workers come and are told to go (start, ready, recycle, drain). Kept are
   the last 600 of these steps, planned exits included, and the last 400 of all other events; 300 over a self-upgrade.

EVENTS
   start, ready       a process starts, serves             reload, upgrade      begin, steps and verdict
   recycle, drain     it is to be replaced, told to leave  scale, park, stop    what was done to pools and to all
   gone               it left as it was told, or was ended degraded, recovered  something stays wrong, is well again
   crash              it died by itself, or never started  signal               who asked: a signal, or a ctl command
   hung               it shows no life, or does not leave  hook                 a hook failed

EXAMPLES
   supervisor ctl history                          the last 50
   supervisor ctl history web.2 --all              the life of one slot
   supervisor ctl history --kind crash,hung -n 5
   supervisor ctl history --follow --json | jq .   a line each
`,
	options: []option{
		{"number", "n", "N", "the newest N; 50, with --follow 10; 0: all there is", false},
		{"kind", "k", "EVENT,…", "only these", false},
		{"all", "a", "", "those of daily routine, too", false},
		followOption,
	},
	words: 1, names: workerName, run: ctlHistory,
}

// eventKinds are all kinds of events, for the help and for completion.
var eventKinds = []string{
	control.EventStart, control.EventReady, control.EventRecycle, control.EventDrain, control.EventGone, control.EventCrash, control.EventHung, control.EventReload,
	control.EventUpgrade, control.EventScale, control.EventPark, control.EventStop, control.EventDegraded, control.EventRecovered, control.EventSignal,
	control.EventHook,
}

// ctlHistory prints events.
func ctlHistory(ctx context.Context, c *client, to *control.Client) error {
	newest, err := c.number(50, 10)
	if err != nil {
		return err
	}
	what := strings.Join(c.words, "")
	wanted, err := c.wantedEvents()
	if err != nil {
		return err
	}
	h, err := to.History(ctx, control.HistoryQuery{What: what})
	if err != nil {
		return err
	}
	h.Events = slices.DeleteFunc(h.Events, func(e control.Event) bool { return !wanted(e) })
	if extra := len(h.Events) - newest; newest > 0 && extra > 0 {
		h.Events = h.Events[extra:]
	}
	if len(h.Events) == 0 && !c.has("json") && !c.has("follow") {
		fmt.Fprintf(c.stderr, "supervisor ctl: no such events are kept of %s\n", cmp.Or(what, "the supervisor"))
	}
	out := newEventTable(c.stdout, h.Events)
	switch {
	case !c.has("json"):
		for _, e := range h.Events {
			out.write(e)
		}
	case c.has("follow"):
		for _, e := range h.Events {
			if err := json.NewEncoder(c.stdout).Encode(e); err != nil {
				return err
			}
		}
	default:
		return printJSON(c.stdout, h)
	}
	if !c.has("follow") {
		return nil
	}
	return to.FollowHistory(ctx, control.HistoryQuery{After: h.Last, What: what}, func(e control.Event) error {
		switch {
		case !wanted(e):
			return nil
		case c.has("json"):
			return json.NewEncoder(c.stdout).Encode(e)
		}
		return out.write(e)
	})
}

// number reads -n: how many of the newest; 0: all.
func (c *client) number(without, following int) (int, error) {
	text, set := c.flags["number"]
	switch {
	case !set && c.has("follow"):
		return following, nil
	case !set:
		return without, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, bad("-n: %q is no number", text)
	}
	return n, nil
}

// wantedEvents gives which events are to be shown.
func (c *client) wantedEvents() (func(control.Event) bool, error) {
	text, some := c.flags["kind"]
	if some && c.has("all") {
		return nil, bad("--all and --kind: one at a time")
	}
	only := strings.Split(text, ",")
	for _, kind := range only {
		if some && !slices.Contains(eventKinds, kind) {
			if guess := config.Nearest(kind, eventKinds); guess != "" {
				return nil, bad("--kind: there is no event %q; did you mean %s?", kind, guess)
			}
			return nil, bad("--kind: there is no event %q; there are %s", kind, strings.Join(eventKinds, ", "))
		}
	}
	return func(e control.Event) bool {
		switch {
		case e.Kind == control.EventLost || c.has("all"):
			return true
		case some:
			return slices.Contains(only, e.Kind)
		}
		return e.Kind == control.EventGone || !e.Routine()
	}, nil
}

// eventTable prints events for people, a line each, and the last words of a crash below.
type eventTable struct {
	to     io.Writer
	widths [7]int
	headed bool
}

// newEventTable makes one whose columns fit these events; later ones that are wider shift their line.
func newEventTable(to io.Writer, events []control.Event) *eventTable {
	t := &eventTable{to: to, widths: [7]int{19, 9, 8, 12, 6, 8, 9}}
	for _, e := range events {
		cells := eventCells(e)
		for i, width := range t.widths {
			t.widths[i] = max(width, len([]rune(cells[i])))
		}
	}
	return t
}

func eventCells(e control.Event) [8]string {
	cells := [8]string{e.At.Local().Format("2006-01-02 15:04:05"), e.Kind, e.Worker, e.Reason, "", "", e.Exit, e.Text}
	if e.Worker == "" {
		cells[2] = e.Pool
	}
	if e.PID > 0 {
		cells[7] += fmt.Sprintf(", pid %d", e.PID)
	}
	if e.Exit != "" {
		cells[4], cells[5] = span(e.Lived), strconv.FormatUint(e.Requests, 10)
	}
	for i := range cells {
		if cells[i] = plain(cells[i]); cells[i] == "" {
			cells[i] = "-"
		}
	}
	return cells
}

func (t *eventTable) write(e control.Event) error {
	var line strings.Builder
	row := func(cells [8]string) {
		for i, width := range t.widths {
			fmt.Fprintf(&line, "%-*s  ", width, cells[i])
		}
		fmt.Fprintln(&line, cells[7])
	}
	if !t.headed {
		row([8]string{"TIME", "EVENT", "WHO", "REASON", "LIVED", "REQUESTS", "EXIT", "TEXT"})
		t.headed = true
	}
	row(eventCells(e))
	for _, words := range e.Words {
		fmt.Fprintf(&line, "%*s | %s\n", t.widths[0], "", plain(words))
	}
	_, err := io.WriteString(t.to, line.String())
	return err
}
