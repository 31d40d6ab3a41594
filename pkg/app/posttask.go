package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"mime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

// POST /tasks: a job by its name. What a client may ask for stands in kinds.go, what it may say here.

const (
	maxTaskBytes    = 256 << 10           // of the body: what is larger belongs into a store
	maxTaskAttempts = 25                  // with the default back-off about a day
	maxTaskTimeout  = time.Hour           // of one attempt: it holds a slot of a runner
	maxTaskDelay    = 30 * 24 * time.Hour // of in and at
	lastPriority    = 3
	// clientKey begins the keys that clients give: a stranger must not take the place of a job of our own, such as cron:report:….
	clientKey    = "key:"
	maxClientKey = 120
)

// taskRequest is the body of POST /tasks.
type taskRequest struct {
	Name        string          `json:"name"`
	Args        json.RawMessage `json:"args"`
	Queue       string          `json:"queue"`
	Priority    *int            `json:"priority"`
	In          json.RawMessage `json:"in"`
	At          string          `json:"at"`
	Key         string          `json:"key"`
	Timeout     json.RawMessage `json:"timeout"`
	MaxAttempts *int            `json:"max_attempts"`
}

// postTask stores a job, and answers 202 with where to ask for it.
func (a *app) postTask(ctx *fasthttp.RequestCtx) error {
	ctx.Response.Header.Set(fasthttp.HeaderCacheControl, "no-store")
	if a.tasks == nil {
		return a.tasksOff()
	}
	byAdmin, err := a.byAdmin(ctx)
	if err != nil {
		return err
	}
	// A page of somebody else can make a browser send forms and plain text anywhere, but not this type.
	if kind, _, _ := mime.ParseMediaType(string(ctx.Request.Header.ContentType())); kind != "application/json" {
		return newProblem(fasthttp.StatusUnsupportedMediaType, "not_json", "Content-Type is %q: want application/json (curl --json)", kind)
	}
	body := ctx.PostBody()
	if len(body) > maxTaskBytes {
		return newProblem(fasthttp.StatusRequestEntityTooLarge, "too_large", "a job may have at most %d bytes (%d KiB)", maxTaskBytes, maxTaskBytes>>10)
	}
	request := taskRequest{Queue: a.config.Queues()[0]}
	if err := decodeStrictly(body, "", &request); err != nil {
		return err
	}
	if key := string(ctx.Request.Header.Peek("Idempotency-Key")); key != "" {
		if request.Key != "" && request.Key != key {
			return badField("key", "it is not what the header Idempotency-Key says")
		}
		request.Key = key
	}
	kind, args, err := a.tasks.wanted(request, byAdmin)
	if err != nil {
		return err
	}
	options, err := a.taskOptions(request)
	if err != nil {
		return err
	}
	limit, cancel := askingTime(ctx)
	defer cancel()
	if request.Key != "" {
		if err := a.tasks.unlessOther(limit, request, args); err != nil {
			return a.taskProblem("", err)
		}
	}
	id, err := a.tasks.EnqueueTask(limit, kind.name, args, slices.Concat(kind.options, options)...)
	if err != nil {
		return a.taskProblem(id, err)
	}
	accepted(ctx, id)
	return nil
}

// wanted finds the kind that a request names, and reads its arguments.
func (t *Tasks) wanted(request taskRequest, byAdmin bool) (*kind, arguments, error) {
	var names []string
	for _, k := range t.kinds() {
		if !k.open() {
			continue
		}
		if k.name != request.Name {
			names = append(names, strconv.Quote(k.name))
			continue
		}
		args, err := k.read(request.Args)
		if err == nil {
			err = args.check(t, byAdmin)
		}
		return &k, args, err
	}
	return nil, nil, badField("name", "%.100q is not a job that clients can ask for: want one of %s", request.Name, strings.Join(names, ", "))
}

// taskOptions reads what a request says beside name and arguments.
func (a *app) taskOptions(request taskRequest) (options []tasks.Option, err error) {
	options = append(options, tasks.Keep(recordTTL))
	if !slices.Contains(a.config.Queues(), request.Queue) {
		return nil, badField("queue", "%.100q is not a queue that clients may use: want one of %q (TASK_QUEUES)", request.Queue, a.config.Queues())
	}
	options = append(options, tasks.Queue(request.Queue))
	if p := request.Priority; p != nil {
		if *p < 0 || *p > lastPriority {
			return nil, badField("priority", "%d: want a whole number from 0 (first) to %d (last), 1 is normal", *p, lastPriority)
		}
		options = append(options, tasks.Priority(*p))
	}
	switch {
	case request.In != nil && request.At != "":
		return nil, badField("at", "want in or at, not both")
	case request.In != nil:
		d, err := durationOf("in", request.In, 0, maxTaskDelay)
		if err != nil {
			return nil, err
		}
		options = append(options, tasks.In(d))
	case request.At != "":
		at, err := time.Parse(time.RFC3339, request.At)
		if err != nil || time.Until(at) > maxTaskDelay {
			return nil, badField("at", "%.50q: want a time as in 2026-01-31T18:30:00Z, at most %s from now", request.At, hours(maxTaskDelay))
		}
		options = append(options, tasks.At(at))
	}
	if request.Key != "" {
		if !validKey(request.Key) {
			return nil, badField("key", "%.150q: want 1 to %d letters, digits, '_', ':' or '-' (Idempotency-Key too)", request.Key, maxClientKey)
		}
		options = append(options, tasks.Key(clientKey+request.Key))
	}
	if request.Timeout != nil {
		d, err := durationOf("timeout", request.Timeout, time.Second, maxTaskTimeout)
		if err != nil {
			return nil, err
		}
		options = append(options, tasks.Timeout(d))
	}
	if n := request.MaxAttempts; n != nil {
		if *n < 1 || *n > maxTaskAttempts {
			return nil, badField("max_attempts", "%d: want a whole number from 1 to %d", *n, maxTaskAttempts)
		}
		options = append(options, tasks.MaxAttempts(*n))
	}
	return options, nil
}

// durationOf reads "90s", or a number of seconds.
func durationOf(field string, raw json.RawMessage, least, most time.Duration) (d time.Duration, err error) {
	var written string
	var seconds float64
	if json.Unmarshal(raw, &written) == nil {
		d, err = time.ParseDuration(written)
	} else if err = json.Unmarshal(raw, &seconds); err == nil && seconds <= most.Seconds() {
		d = time.Duration(seconds * float64(time.Second))
	} else {
		d = -1
	}
	if err != nil || d < least || d > most {
		return 0, badField(field, "%.50s: want seconds, or a time as in \"90s\", from %s to %s", raw, least, hours(most))
	}
	return d, nil
}

const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-"

// What tasks.Key (behind clientKey) and tasks.Queue take.
func validKey(key string) bool     { return consistsOf(key, letters+":", maxClientKey) }
func validQueue(queue string) bool { return consistsOf(queue, letters, 64) }

func consistsOf(s, set string, most int) bool {
	return len(s) > 0 && len(s) <= most && strings.Trim(s, set) == ""
}

// unlessOther refuses a key that already stands for another job: its client would take that one for its own.
func (t *Tasks) unlessOther(ctx context.Context, request taskRequest, args arguments) error {
	same, err := json.Marshal([]any{request.Name, args})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(same)
	err = t.keys.claim(ctx, request.Queue+"."+request.Key, hex.EncodeToString(sum[:16]))
	if errors.Is(err, errKeyTaken) {
		return newProblem(fasthttp.StatusUnprocessableEntity, "key_reused", "the key %s was used for another job less than %s ago", request.Key, hours(recordTTL))
	}
	return t.note(err)
}
