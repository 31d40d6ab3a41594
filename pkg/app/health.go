package app

import (
	"math"
	"os"
	"time"

	"github.com/valyala/fasthttp"
)

// retryAfterDrain is when a client that found this worker draining may ask again: by then another one answers.
const retryAfterDrain = time.Second

var liveBody = []byte(`{"status":"healthy"}` + "\n")

// workerStatus is the answer of /health.
type workerStatus struct {
	Status      string  `json:"status"` // healthy or draining
	WorkerID    string  `json:"worker_id"`
	PID         int     `json:"pid"`
	Uptime      float64 `json:"uptime"` // seconds
	Connections int     `json:"active_connections"`
	Generation  int     `json:"generation"`
}

// live is for probes that restart what does not answer, so it depends on nothing.
func (a *app) live(ctx *fasthttp.RequestCtx) error {
	ctx.SetContentType("application/json")
	ctx.Response.SetBodyRaw(liveBody)
	return nil
}

// ready is for load balancers that send clients elsewhere while it fails.
func (a *app) ready(ctx *fasthttp.RequestCtx) error {
	if a.worker.Draining() {
		p := newProblem(fasthttp.StatusServiceUnavailable, "draining", "this worker finishes what it has and takes nothing new, ask again")
		p.retryAfter = retryAfterDrain
		return p
	}
	return a.live(ctx)
}

// health is /health, /api/health and /health/worker: about the worker that happens to take the request, 200 while it serves,
// draining or not. A container that is restarted when /health fails must not be restarted in the middle of a drain.
func (a *app) health(ctx *fasthttp.RequestCtx) error {
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	answerJSON(ctx, fasthttp.StatusOK, a.status())
	return nil
}

func (a *app) status() workerStatus {
	status := "healthy"
	if a.worker.Draining() {
		status = "draining"
	}
	return workerStatus{
		Status:      status,
		WorkerID:    a.worker.ID,
		PID:         os.Getpid(),
		Uptime:      math.Round(time.Since(a.start).Seconds()*1000) / 1000,
		Connections: a.worker.Connections(),
		Generation:  a.worker.Generation,
	}
}
