package app

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

// The drills show what the supervisor does with a worker that misbehaves. APP_DEBUG=1 turns them on; never do that where
// strangers can reach them.

// hoard keeps what /debug/alloc took, until the process ends.
var hoard struct {
	sync.Mutex
	blocks    [][]byte
	megabytes int
}

func (a *app) drills() []route {
	return []route{
		{anyMethod, "/debug/sleep", "?ms=500", "Answers after ms milliseconds.", "", a.debugSleep},
		{fasthttp.MethodPost, "/debug/job", "?ms=5000", "Enqueues a job that takes ms milliseconds.", "-X POST", a.debugJob},
		{anyMethod, "/debug/hang", "", "Never answers, whatever happens.", "-m 60", a.debugHang},
		{anyMethod, "/debug/panic", "", "Panics: one 500, and the worker lives on.", "", a.debugPanic},
		{anyMethod, "/debug/alloc", "?mb=64", "Takes mb megabytes and keeps them.", "", a.debugAlloc},
		{fasthttp.MethodGet, "/debug/stream", "?seconds=5", "Server-sent events, one a second.", "-N", a.debugStream},
		{anyMethod, "/debug/echo", "?body=1", "Length and SHA-256 of the body; with body=1 the body itself.", "-d hello", a.debugEcho},
	}
}

// numberOf reads a whole number from the query.
func numberOf(ctx *fasthttp.RequestCtx, name string, otherwise, most int) (int, error) {
	value := string(ctx.QueryArgs().Peek(name))
	if value == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 || n > most {
		return 0, badRequest("%s=%s: want a whole number from 0 to %d", name, value, most)
	}
	return n, nil
}

func (a *app) debugSleep(ctx *fasthttp.RequestCtx) error {
	ms, err := numberOf(ctx, "ms", 1000, longestDrill)
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(ms) * time.Millisecond)
	answerJSON(ctx, fasthttp.StatusOK, map[string]int{"slept_ms": ms})
	return nil
}

// drillTask is the name of a job that takes its time, and tells how far it is.
const drillTask = "drill"

type drillArgs struct {
	Milliseconds int `json:"ms"`
}

var drillSchema = object(map[string]schema{"ms": whole(0, longestDrill, "Milliseconds.")}, "ms")

const longestDrill = 600_000 // ms

func (args drillArgs) check(*Tasks, bool) error {
	if args.Milliseconds < 0 || args.Milliseconds > longestDrill {
		return badField("args.ms", "want a whole number from 0 to %d", longestDrill)
	}
	return nil
}

func (a *app) debugJob(ctx *fasthttp.RequestCtx) error {
	if a.tasks == nil {
		return a.tasksOff()
	}
	ms, err := numberOf(ctx, "ms", 1000, longestDrill)
	if err != nil {
		return err
	}
	limit, cancel := askingTime(ctx)
	defer cancel()
	id, err := a.tasks.EnqueueTask(limit, drillTask, drillArgs{ms})
	if err != nil {
		return a.taskProblem(id, err)
	}
	accepted(ctx, id)
	return nil
}

// drill does what debugJob enqueued.
func drill(ctx context.Context, args drillArgs) ([]byte, error) {
	const steps = 20
	for i := range steps {
		tasks.FromContext(ctx).Progress(100*i/steps, "takes its time")
		select {
		case <-time.After(time.Duration(args.Milliseconds) * time.Millisecond / steps):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return json.Marshal(map[string]int{"took_ms": args.Milliseconds})
}

func (a *app) debugHang(*fasthttp.RequestCtx) error {
	select {}
}

func (a *app) debugPanic(*fasthttp.RequestCtx) error {
	panic("drill: /debug/panic")
}

func (a *app) debugAlloc(ctx *fasthttp.RequestCtx) error {
	mb, err := numberOf(ctx, "mb", 1, 4096)
	if err != nil {
		return err
	}
	hoard.Lock()
	defer hoard.Unlock()
	for range mb {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 { // a page counts once it is touched
			block[i] = 1
		}
		hoard.blocks = append(hoard.blocks, block)
		hoard.megabytes++
	}
	answerJSON(ctx, fasthttp.StatusOK, map[string]int{"took_mb": mb, "holds_mb": hoard.megabytes})
	return nil
}

// debugStream ticks without looking at drains or deadlines: what becomes of it is the supervisor's business.
func (a *app) debugStream(ctx *fasthttp.RequestCtx) error {
	seconds, err := numberOf(ctx, "seconds", 10, 86_400)
	if err != nil {
		return err
	}
	ctx.SetContentType("text/event-stream")
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	conn := ctx.Conn()
	ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := 1; i <= seconds; i++ {
			// writeTimeout is for a whole answer, and a stream has no end: each event gets its own.
			if conn.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
				return
			}
			fmt.Fprintf(w, "id: %d\nevent: tick\ndata: {\"tick\":%d,\"of\":%d,\"worker_id\":%q}\n\n", i, i, seconds, a.worker.ID)
			if w.Flush() != nil {
				return // the client is gone
			}
			if i < seconds {
				<-tick.C
			}
		}
	})
	return nil
}

// debugEcho is for load tests that check bytes: the body comes back (body=1), nonce=N returns in the header X-Nonce, so that no answer
// passes for another request's, and X-Worker says who answered.
func (a *app) debugEcho(ctx *fasthttp.RequestCtx) error {
	if nonce := ctx.QueryArgs().Peek("nonce"); len(nonce) > 0 {
		ctx.Response.Header.SetBytesV("X-Nonce", nonce)
	}
	ctx.Response.Header.Set("X-Worker", a.worker.ID)
	body := ctx.PostBody()
	if string(ctx.QueryArgs().Peek("body")) == "1" {
		ctx.SetContentType("application/octet-stream")
		ctx.SetBody(body)
		return nil
	}
	sum := sha256.Sum256(body)
	answerJSON(ctx, fasthttp.StatusOK, map[string]any{"method": string(ctx.Method()), "length": len(body), "sha256": hex.EncodeToString(sum[:])})
	return nil
}
