// Package control is how one talks to a running supervisor: HTTP with JSON bodies on a unix socket. It has what both ends share (the
// paths, requests and answers below), the client, and the rules by which a client finds the socket. The server is in pkg/supervisor.
//
//	GET  /v1/status    Status
//	GET  /v1/history   HistoryQuery  History; with follow=1 a stream of Events
//	GET  /v1/config    Config
//	GET  /v1/logs      LogQuery      Logs; with follow=1 a stream of LogLines
//	POST /v1/reload    Wait          read the configuration again and replace all workers
//	POST /v1/upgrade   Wait          replace the supervisor's own program, too
//	POST /v1/scale     ScaleRequest
//	POST /v1/recycle   RecycleRequest
//	POST /v1/drain     DrainRequest   take a worker out: its slot stays empty
//	POST /v1/undrain   DrainRequest   until then, or a reload
//	POST /v1/stop      StopRequest
//	POST /v1/dump      DumpRequest   a profile of a worker, or of the supervisor: the answer is the profile itself
//	GET  /health/live, /health/ready, /health/startup, /metrics: as on the admin listener
//
// A stream is JSON, a line each, for as long as the client stays; an empty line says that nothing new has come for a while. It ends with the supervisor,
// also when that hands over to a successor: the client asks that one for what comes after. At most 64 clients follow something.
//
// Any other POST is answered with a Verdict: at once, with status 202, or, when it says "wait", with 200 at the end. A waiting client gets an
// interim answer (102 Processing, its header Begun in words) when the supervisor has begun, so that it can tell a long reload from a supervisor
// that hangs. Everything else is an Error: 400 not understood, 403 not allowed, 404 no such pool or worker, 409 refused in this state,
// 502 and 504 a worker that ended or does not answer, 503 the supervisor's loop does not answer. A client that goes away disturbs nothing: what was
// begun goes on (but a dump, which is nobody's then, ends).
//
// The socket has mode 0600, and who connects must be root or the supervisor's own user. A successor after a self-upgrade, older or newer, may
// serve it: unknown fields are ignored on both sides, a change that breaks a client gets a /v2.
package control

import "time"

// Paths.
const (
	PathStatus  = "/v1/status"
	PathReload  = "/v1/reload"
	PathUpgrade = "/v1/upgrade"
	PathScale   = "/v1/scale"
	PathRecycle = "/v1/recycle"
	PathStop    = "/v1/stop"
	PathHistory = "/v1/history"
	PathDump    = "/v1/dump"
	PathLogs    = "/v1/logs"
	PathConfig  = "/v1/config"
	PathDrain   = "/v1/drain"
	PathUndrain = "/v1/undrain"

	PathLive    = "/health/live"
	PathReady   = "/health/ready"
	PathStartup = "/health/startup"

	PathMetrics = "/metrics" // for Prometheus
)

// HeaderBegun says in an interim answer what has begun.
const HeaderBegun = "Begun"

// MaxBody bounds a request's body in bytes.
const MaxBody = 64 << 10

// Status is all that the supervisor says of itself.
type Status struct {
	PID        int       `json:"pid"`
	Version    string    `json:"version,omitempty"`
	Instance   string    `json:"instance"` // random, kept over a self-upgrade
	State      string    `json:"state"`    // one of the constants below
	Ready      bool      `json:"ready"`    // as /health/ready
	NotReady   string    `json:"not_ready,omitempty"`
	Generation int       `json:"generation"`
	Started    time.Time `json:"started"`
	Uptime     float64   `json:"uptime_seconds"`
	Degraded   []string  `json:"degraded,omitempty"` // what is not as it should be, in words
	Reload     *Reload   `json:"reload,omitempty"`   // under way
	Last       *Verdict  `json:"last_verdict,omitempty"`
	Pools      []Pool    `json:"pools"`

	// LatencyBounds are those of all Latency: what is counted at i took up to LatencyBounds[i] seconds; what took longer than the last one is counted
	// behind it.
	LatencyBounds []float64 `json:"latency_bounds_seconds"`
}

// States of a supervisor.
const (
	StateStarting = "starting" // some pool's first full set is still to come
	StateServing  = "serving"
	StateParked   = "parked"   // WINCH: no workers, the sockets stay
	StateDelaying = "delaying" // drain_delay: told to stop, still serving everybody who comes
	StateStopping = "stopping"
)

// Reload is a reload that runs.
type Reload struct {
	Generation int     `json:"generation"` // that it will bring
	Step       string  `json:"step"`       // how far it is, in words
	Age        float64 `json:"age_seconds"`
	Queued     bool    `json:"queued"` // another one waits for its end
}

// Pool is one pool.
type Pool struct {
	Name       string   `json:"name"`
	Wanted     int      `json:"wanted"`  // workers, with what was scaled
	Ready      int      `json:"ready"`   // workers that serve
	Leaving    int      `json:"leaving"` // workers on their way out
	Drained    int      `json:"drained"` // slots that were drained by hand
	Scaled     int      `json:"scaled"`  // what ctl scale, TTIN and TTOU have added to the configuration
	Generation int      `json:"generation"`
	Addresses  []string `json:"addresses"`
	Degraded   string   `json:"degraded,omitempty"`
	Workers    []Worker `json:"workers"` // by slot; those that leave come last
	Queued     int      `json:"queued"`  // connections that wait to be accepted; -1: unknown
	// Listeners are Addresses in their order, with their queues.
	Listeners []Listener `json:"listeners"`
	Work      Work       `json:"work"`
}

// Listener is an address of a pool.
type Listener struct {
	Name    string `json:"name"` // as the workers see it, LISTEN_FDNAMES
	Address string `json:"address"`
	Queued  int    `json:"queued"` // connections that wait to be accepted, over all slots; -1: unknown
	Limit   int    `json:"limit"`  // how many may
}

// Work is what all workers of a pool have done that it has and had, as far as they keep a scoreboard: it never goes down, also over reloads
// and self-upgrades.
type Work struct {
	Requests uint64   `json:"requests"`
	Errors   uint64   `json:"errors"` // answers with a status from 500
	Latency  []uint64 `json:"latency"`
}

// Worker is one process, or a slot without one (pid 0): it waits for its next one (state "backoff"), or was drained by hand ("drained").
type Worker struct {
	Name        string  `json:"name"` // web.2.17: pool, slot, serial; web.2 for a slot without a process
	PID         int     `json:"pid"`
	State       string  `json:"state"` // starting, ready, draining, quitting, aborting, killing, backoff, or drained
	Generation  int     `json:"generation"`
	Age         float64 `json:"age_seconds"`
	Scored      bool    `json:"scored"` // it keeps a scoreboard (pkg/worker); without one the next four are 0
	Requests    uint64  `json:"requests"`
	InFlight    int     `json:"in_flight"`
	Connections int     `json:"connections"`
	Oldest      float64 `json:"oldest_request_seconds"` // how long the oldest request has been without a byte of its answer
	Silent      float64 `json:"silent_seconds"`         // since its last sign of life
	Memory      int64   `json:"memory_bytes"`           // resident
	CPU         float64 `json:"cpu_seconds"`            // that it has used
	Suspect     string  `json:"suspect,omitempty"`      // it makes no progress, and connections go to others: why we think so
	Overdue     string  `json:"overdue,omitempty"`      // the limit that it has reached: it waits for its turn to be replaced
	Reason      string  `json:"reason,omitempty"`       // why it leaves
	Left        float64 `json:"left_seconds,omitempty"` // until the deadline of its state: ready, or its exit, is due by then
	Failures    int     `json:"failures,omitempty"`     // of its slot: starts that failed in a row
	// Labels are the program's own counters and gauges, by name (worker.Label); those of seconds are in microseconds.
	Labels map[string]int64 `json:"labels,omitempty"`
	// Latency counts its requests by how long they took; see Status.LatencyBounds.
	Latency []uint64 `json:"latency,omitempty"`
}

// Verdict is how a request ended.
type Verdict struct {
	OK         bool      `json:"ok"`
	What       string    `json:"what"` // reload, upgrade, scale, recycle, drain, undrain or stop
	Text       string    `json:"text"` // one line for people: what came of it, and why
	Generation int       `json:"generation"`
	Took       float64   `json:"took_seconds"`
	At         time.Time `json:"at"`
	// Process is who answered, for a client that wants to see it end: pid and start time as in /proc/PID/stat.
	Process *Process `json:"process,omitempty"`
}

// Process names a process beyond the reuse of its pid.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
}

// Wait says whether the answer is to come at the end.
type Wait struct {
	Wait bool `json:"wait"`
}

// ScaleRequest changes how many workers a pool has: to a number, or by one.
type ScaleRequest struct {
	Wait
	Pool    string `json:"pool"` // "": the (first) one with an address, as TTIN
	Workers int    `json:"workers,omitempty"`
	Delta   int    `json:"delta,omitempty"` // exactly one of the two is not 0
}

// RecycleRequest replaces workers, each in its turn as if it had reached a limit.
type RecycleRequest struct {
	Wait
	Target string `json:"target"` // a pool, a slot (web.2), a worker (web.2.17), or "": everything
}

// DrainRequest takes slots out by hand, or brings them back. A process (web.2.17) stands for its slot, as long as it is there.
type DrainRequest struct {
	Wait
	Target string `json:"target"` // a pool (web), a slot (web.2), a process (web.2.17); "" is everything that is drained, for undrain
}

// StopRequest is TERM, or INT.
type StopRequest struct {
	Wait
	Quick bool `json:"quick"`
}

// Config is what is in force. What looks like a secret is redacted.
type Config struct {
	Generation int       `json:"generation"`
	Text       string    `json:"text"`  // as --print-config: TOML, with the origin of each value
	Notes      []string  `json:"notes"` // what is otherwise than this says, in words: what ctl scale has changed
	Settings   []Setting `json:"settings"`
}

// Setting is one setting.
type Setting struct {
	Key   string `json:"key"`   // pool.web.workers
	Value any    `json:"value"` // as in the file: durations and sizes are texts
	From  string `json:"from"`  // "default", "app.toml:17", "environment WORKERS", "flag --workers"
}

// Error is the body of an answer that is neither a Status nor a Verdict.
type Error struct {
	Status int    `json:"status"` // as the answer's
	Text   string `json:"error"`
}

func (e *Error) Error() string { return e.Text }

// Waits reports whether the answer is to come at the end.
func (w Wait) Waits() bool { return w.Wait }
