// Package worker is the worker's side of a supervisor: a program that serves through it can be replaced, moved and stopped without a
// client noticing. It imports the standard library and golang.org/x/sys only; fasthttp's side is in package fast.
//
//	worker.Serve(&http.Server{Handler: mux}, ":8080")        // net/http
//	fast.Serve(&fasthttp.Server{Handler: handler}, ":8080")  // fasthttp
//	worker.Run(func(ctx context.Context) error { … })        // no listener: a job runner
//
// Started by hand the same program is a plain server on that address that stops gracefully at TERM and INT. Started by systemd it serves
// the sockets that it was given (LISTEN_FDS), and says READY=1. It builds everywhere; connections move and supervisors exist on
// Linux only.
//
// # What a worker does in each mode
//
//	serving    accepts on its sockets, up to worker_connections; between "adopt on" and "adopt off" also takes connections that
//	           other workers send
//	           after "lame" (drain_delay) the same, but every answer says Connection: close, and Draining reports true
//	moving     (drain move) accepts what is in the queue, at most 50 ms long; sends every connection that stands between two
//	           requests to the workers that stay, at once or after its running request. Nobody takes it: serves on, offers
//	           it again every second, and says Connection: close once nobody has taken any for 3 s, or the last quarter
//	           of the drain's time has begun
//	closing    (drain close) accepts until the queue is empty, at most 5 s; every answer says Connection: close; an idle
//	           connection, also one without a first request, is closed after LingerTime (1 s) if no byte of it is unread
//	ended      every Serve returns nil
//
// A drain ends when its last connection is gone, or at its deadline: what is left then is cut and counted. The supervisor's command brings the
// deadline (the pool's graceful_timeout); a program without connections asks Worker.Deadline how long its jobs may still take. A second
// command may shorten it, never lengthen. Until then "undrain" takes it back. Answers that have begun when a drain close comes cannot say Connection: close any more (in net/http: whose handler has
// begun); their connections get the linger instead.
//
// # Signals
//
//	TERM       drain close within StopTimeout (30 s; see StopWithin); Serve returns nil
//	INT, QUIT  supervised: cut everything, Serve returns nil at once; twice: exit 1. By hand: the first INT is TERM, QUIT Go's dump
//	HUP        supervised: nothing, it means the supervisor. By hand: Go's default, death
//	USR1       the functions given to OnReopen
//	PIPE       nothing: a log pipe whose reader is gone must not end a worker (Output counts what is lost)
//	ABRT       Go's default: stacks on stderr, exit 2
//
// A signal that stops, before the first Serve or Run, exits with 0.
//
// # Who speaks and who is silent
//
// READY=1 goes out when every inherited socket is in Accept. The heartbeat is on the scoreboard; without one WATCHDOG=1 is sent when
// WATCHDOG_USEC asks for it. The loss of the control channel means that the supervisor is gone: a worker that was told "commit" serves on
// for orphan_timeout, another one drains.
//
// # Overdue requests
//
// The pool's timeout runs from a handler's start to the first byte of its answer, and stands still while the handler waits for the
// client's bytes. Then the worker itself answers 504 and closes that connection; the handler's writes fail. Answers 100 and 103 do not
// stop the clock. Streams, WebSockets and hijacked connections have no deadline once their first byte is out; NoDeadline and Extend change
// it for one request. A handler that still runs timeout_grace later makes the worker write its stacks, once, and ask to be replaced.
//
// # Figures
//
// Requests, connections, bytes and durations are counted on the scoreboard without anybody's doing; the supervisor shows them on /metrics, added up over
// all workers that the pool has and had. A program that counts more names it by Worker.Label: package scoreboard says what a name means. One that names
// http_requests_total itself, by route for instance, is not counted twice.
//
// # Limits
//
//   - TLS inside this process: its keys cannot move. Such a connection is served to the end of its drain, with Connection: close; it gets
//     no 504, only the close, and its 5xx answers of net/http are not counted as such.
//   - HTTP/2: requests are counted, they have no deadline, and the connection does not move. Idle ones stay until the drain's deadline.
//   - Hijacked connections are counted, and cut at a drain's deadline. Done says when to end them better.
//   - fasthttp's MaxConnsPerIP hides the connection: it is served unscored, and moves only before its first byte.
//   - A client that sends a request in the very moment in which an idle connection is closed (keepalive over, or drain close) has to
//     send it again: HTTP/1.1 has no answer to that. A drain move has no such moment.
//   - A full stop is a drain close: there is nobody to move to.
//   - A request that was pipelined behind one that got Connection: close is not answered, as HTTP/1.1 has it.
//   - A request that is overdue behind pipelined ones in fasthttp's buffer gets the close without the 504.
//
// Where to change what: inherit*.go environment, loop.go commands and signals, drain.go modes, listener.go accepting, conn.go, boundary.go and
// close.go connections, phase.go and monitor.go deadlines, server.go what adapters use, http.go the one for net/http, profile.go goroutines, heap and
// CPU profiles for `supervisor ctl dump`.
package worker
