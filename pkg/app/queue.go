package app

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// Decoding an image takes a core and up to maxDecodeBytes. So only as many are decoded at once as there are cores for this
// process, a few wait, and the rest are told to come back: a queue without an end serves everybody too late.
const (
	waitingPerSlot = 16              // each holds an upload of at most maxUploadBytes
	waitForSlot    = 5 * time.Second // a thumbnail takes 0.1 to 1 s, so who waits longer is in a crowd
	retryAfterWait = 2 * time.Second
)

// queue bounds the images that are worked on, and those that wait.
type queue struct {
	slots   chan struct{} // a token per image that is worked on
	waiting atomic.Int64
	longest time.Duration // the wait of one request; waitForSlot
}

func newQueue() *queue {
	return &queue{slots: make(chan struct{}, runtime.GOMAXPROCS(0)), longest: waitForSlot}
}

// enter waits for a slot. The caller must leave.
func (q *queue) enter() error {
	select {
	case q.slots <- struct{}{}:
		return nil
	default:
	}
	defer q.waiting.Add(-1)
	if q.waiting.Add(1) > int64(waitingPerSlot*cap(q.slots)) {
		return busy()
	}
	timer := time.NewTimer(q.longest)
	defer timer.Stop()
	select {
	case q.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return busy()
	}
}

func (q *queue) leave() { <-q.slots }

func busy() *problem {
	p := newProblem(fasthttp.StatusServiceUnavailable, "busy", "too many images are being worked on, send it again later")
	p.retryAfter = retryAfterWait
	return p
}
