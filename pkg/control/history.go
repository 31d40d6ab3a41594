package control

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Event is one change of state that an operator may ask about later: what the supervisor's log says in a line. Programs may rely on its fields and
// kinds; Text is for people.
type Event struct {
	Seq   uint64    `json:"seq"` // counts all events of a service from 1, also over self-upgrades
	At    time.Time `json:"at"`
	Kind  string    `json:"kind"`  // one of the constants below
	Level string    `json:"level"` // info, warning or error
	Text  string    `json:"text"`  // one line, without the name of the worker

	Pool       string   `json:"pool,omitempty"`
	Worker     string   `json:"worker,omitempty"` // web.2.17; web.2 is a slot without a process
	PID        int      `json:"pid,omitempty"`
	Generation int      `json:"generation,omitempty"`
	Reason     string   `json:"reason,omitempty"`        // why it goes or went: max_requests, reload, crash:SIGSEGV, …
	Exit       string   `json:"exit,omitempty"`          // how the process ended: "status 2", "SIGKILL"
	Words      []string `json:"words,omitempty"`         // what it last wrote to stderr, of a death that nobody planned
	Requests   uint64   `json:"requests,omitempty"`      // that it had finished
	Lived      float64  `json:"lived_seconds,omitempty"` // since its start; of a ready event: how long the start took

	// Lost is set in a stream alone, by an event without a seq: so many were not kept until the reader came.
	Lost uint64 `json:"lost,omitempty"`
}

// Kinds of events. A reader must expect others, of a newer supervisor.
const (
	EventStart     = "start"     // a process, or the supervisor itself
	EventReady     = "ready"     // a worker serves, or a pool does
	EventRecycle   = "recycle"   // a worker reached a limit, or was asked for: it will be replaced
	EventDrain     = "drain"     // a worker was told to leave
	EventGone      = "gone"      // it is gone, as it was told
	EventCrash     = "crash"     // it died by itself, or could not be started
	EventHung      = "hung"      // it shows no sign of life, or does not leave
	EventReload    = "reload"    // a step of a reload, or its end
	EventUpgrade   = "upgrade"   // the same of a self-upgrade
	EventScale     = "scale"     // another number of workers is wanted
	EventPark      = "park"      // WINCH, or a slot was drained by hand
	EventStop      = "stop"      // a step of a stop
	EventDegraded  = "degraded"  // something is not as it should be, and stays so
	EventRecovered = "recovered" // and now it is
	EventSignal    = "signal"    // somebody asked for something: a signal, or a command on the control socket
	EventHook      = "hook"      // a hook failed
)

// EventLost is the kind of an event with Lost.
const EventLost = "lost"

// Levels of events.
const (
	LevelInfo    = "info"
	LevelWarning = "warning"
	LevelError   = "error"
)

// Routine reports whether the event is one of the steps in which a worker is replaced as planned.
func (e Event) Routine() bool {
	switch e.Kind {
	case EventStart, EventReady, EventRecycle, EventDrain, EventGone:
		return e.Level == LevelInfo && e.Worker != ""
	}
	return false
}

// About reports whether the event is about a pool (web), a slot (web.2) or a process (web.2.17); everything is about "".
func (e Event) About(what string) bool {
	return e.Pool == what || Names(what, e.Worker)
}

// Names reports whether what is the name of a worker (web.2.17), of its slot (web.2), or of its pool (web); "" names everything.
func Names(what, worker string) bool {
	return what == "" || worker == what || strings.HasPrefix(worker, what+".")
}

// History is the answer of GET /v1/history.
type History struct {
	Events []Event `json:"events"` // by seq; there are gaps: what was asked for, of what was kept
	Last   uint64  `json:"last"`   // seq of the newest event there is: the next question's after
	Lost   uint64  `json:"lost"`   // events after the one in the question that are not kept any more
}

// HistoryQuery says which events. Those of daily routine (start, ready, recycle, drain, gone) are kept for a shorter time than others.
type HistoryQuery struct {
	After  uint64   // only those with a higher seq; one that the supervisor has not come to counts as 0
	What   string   // a pool, a slot or a process; "": everything
	Kinds  []string // none: all
	Newest int      // at most so many, the newest; 0: all
}

// Wants reports whether an event is one of those, Newest aside.
func (q HistoryQuery) Wants(e Event) bool {
	wanted := len(q.Kinds) == 0
	for _, kind := range q.Kinds {
		wanted = wanted || kind == e.Kind
	}
	return wanted && e.Seq > q.After && e.About(q.What)
}

// Values writes it as a query: after=17&what=web.2&kind=crash&kind=gone&n=20.
func (q HistoryQuery) Values() url.Values {
	v := url.Values{}
	if q.After > 0 {
		v.Set("after", strconv.FormatUint(q.After, 10))
	}
	if q.What != "" {
		v.Set("what", q.What)
	}
	if q.Newest > 0 {
		v.Set("n", strconv.Itoa(q.Newest))
	}
	for _, kind := range q.Kinds {
		v.Add("kind", kind)
	}
	return v
}

// ParseHistoryQuery reads what Values wrote.
func ParseHistoryQuery(v url.Values) (q HistoryQuery, err error) {
	q.What, q.Kinds = v.Get("what"), v["kind"]
	if text := v.Get("after"); text != "" {
		if q.After, err = strconv.ParseUint(text, 10, 64); err != nil {
			return q, fmt.Errorf("after=%q is no event's seq", text)
		}
	}
	if text := v.Get("n"); text != "" {
		if q.Newest, err = strconv.Atoi(text); err != nil || q.Newest < 0 {
			return q, fmt.Errorf("n=%q is no number of events", text)
		}
	}
	return q, nil
}
