package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"supervisor/pkg/control"
)

func TestHistoryForPeople(t *testing.T) {
	at := time.Date(2026, 7, 1, 3, 4, 5, 0, time.Local)
	events := []control.Event{
		{At: at, Kind: control.EventSignal, Level: control.LevelInfo, Text: "SIGHUP"},
		{At: at, Kind: control.EventScale, Level: control.LevelInfo, Pool: "web", Text: "from 2 to 4 workers"},
		{
			At: at, Kind: control.EventCrash, Level: control.LevelError, Pool: "web", Worker: "web.2.17", Reason: "crash:SIGSEGV", Exit: "SIGSEGV", Requests: 1203, Lived: 7300,
			PID: 99, Text: "died", Words: []string{"panic: \x1b[2Jout of\tluck", "goroutine 1"},
		},
	}
	var out strings.Builder
	table := newEventTable(&out, events)
	for _, e := range events {
		table.write(e)
	}
	want := `TIME                 EVENT      WHO       REASON         LIVED   REQUESTS  EXIT       TEXT
2026-07-01 03:04:05  signal     -         -              -       -         -          SIGHUP
2026-07-01 03:04:05  scale      web       -              -       -         -          from 2 to 4 workers
2026-07-01 03:04:05  crash      web.2.17  crash:SIGSEGV  2h1m    1203      SIGSEGV    died, pid 99
                    | panic: ?[2Jout of luck
                    | goroutine 1
`
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}

func TestWhichEventsAreShown(t *testing.T) {
	start := control.Event{Kind: control.EventStart, Level: control.LevelInfo, Worker: "web.0.1"}
	ourStart := control.Event{Kind: control.EventStart, Level: control.LevelInfo}
	gone := control.Event{Kind: control.EventGone, Level: control.LevelInfo, Worker: "web.0.1"}
	crash := control.Event{Kind: control.EventCrash, Level: control.LevelError, Worker: "web.0.1"}
	later := control.Event{Kind: "invented later"}
	lost := control.Event{Kind: control.EventLost}
	all := []control.Event{start, ourStart, gone, crash, later, lost}
	for line, want := range map[string][]control.Event{
		"":                  {ourStart, gone, crash, later, lost},
		"--all":             all,
		"--kind crash,gone": {gone, crash, lost},
		"-k start":          {start, ourStart, lost},
	} {
		c := &client{}
		if err := c.parse(ctlOptions(), strings.Fields(line)); err != nil {
			t.Fatal(err)
		}
		wanted, err := c.wantedEvents()
		if err != nil {
			t.Fatal(err)
		}
		got := slices.DeleteFunc(slices.Clone(all), func(e control.Event) bool { return !wanted(e) })
		if !slices.EqualFunc(got, want, func(a, b control.Event) bool { return a.Kind == b.Kind && a.Worker == b.Worker }) {
			t.Errorf("%s: %+v", line, got)
		}
	}
}
