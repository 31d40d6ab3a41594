package tasks

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/redis/rueidis"
)

// Batches form by themselves: what arrives while calls are in flight goes in the next one. A lone job waits for nobody.
const (
	flightsAtOnce = 2       // one is on the way while Redis works on the other
	flightJobs    = 128     // bounds how long Redis does nothing else: about half a millisecond
	flightBytes   = 1 << 20 // the same for large payloads; one larger job flies alone
)

// line is where jobs for one lane wait for the next call.
type line struct {
	client *Client
	lane   lane
	known  announced

	mu      sync.Mutex
	waiting []*entry
	flights int
}

// entry is one job on its way to Redis.
type entry struct {
	id       string
	name     string
	priority int
	due      string
	record   []byte
	unique   string // "" none
	scope    Scope
	holder   string // of the unique key, the last that Redis told; "" unknown
	since    time.Time
	sent     bool // a call had no answer: it may have been stored

	err  error         // set before done is closed
	done chan struct{} // closed when Redis has answered for it, or will not
}

func newEntry(id, due string, r *record, x *extra, raw []byte, since time.Time) *entry {
	return &entry{id: id, name: r.name, priority: r.priority, due: due, record: raw, unique: x.unique, scope: x.scope, since: since, done: make(chan struct{})}
}

// add takes entries over; each is answered on its done. While nobody else is on the way a caller that may wait here flies itself, and has
// its answers when add returns.
func (l *line) add(ctx context.Context, entries []*entry, wait bool) {
	l.mu.Lock()
	if wait && l.flights == 0 && len(l.waiting) == 0 && len(entries) <= flightJobs && size(entries) <= flightBytes {
		l.flights++
		l.mu.Unlock()
		l.answer(entries, l.send(ctx, l.client.sends, entries))
		l.mu.Lock()
		more := len(l.waiting) > 0
		if !more {
			l.flights--
		}
		l.mu.Unlock()
		if more {
			go l.fly()
		}
		return
	}
	l.waiting = append(l.waiting, entries...)
	for started := 0; l.flights < flightsAtOnce && started*flightJobs < len(l.waiting); started++ {
		l.flights++
		go l.fly()
	}
	l.mu.Unlock()
}

func size(entries []*entry) (n int) {
	for _, e := range entries {
		n += len(e.record)
	}
	return n
}

// answer tells what became of a flight.
func (l *line) answer(batch []*entry, err error) {
	if errors.Is(err, ErrUnavailable) {
		// Who waited behind these for as long has its answer too: else each would wait for all before it.
		batch = append(batch, l.tired()...)
	}
	for _, e := range batch {
		if err != nil {
			e.err = err
		}
		close(e.done)
	}
}

// fly sends what waits until nothing does.
func (l *line) fly() {
	for {
		batch := l.board()
		if batch == nil {
			return
		}
		l.answer(batch, l.send(context.Background(), l.client.calls, batch))
	}
}

// board returns the next call's jobs, nil if none wait: this flight is over then.
func (l *line) board() []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, 0
	for n < len(l.waiting) && n < flightJobs && (n == 0 || size+len(l.waiting[n].record) <= flightBytes) {
		size += len(l.waiting[n].record)
		n++
	}
	if n == 0 {
		l.flights--
		l.waiting = nil // lets go of a large backing array
		return nil
	}
	batch := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	return batch
}

// tired takes out those that have waited for as long as the options allow; they come in order of time.
func (l *line) tired() []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.waiting) && time.Since(l.waiting[n].since) > l.client.options.Patience {
		n++
	}
	gone := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	return gone
}

// send tries until Redis has answered, for as long as the options allow. The same jobs may be sent twice: the second time the
// script finds them.
func (l *line) send(ctx context.Context, by link, batch []*entry) error {
	options := l.client.options
	deadline := batch[0].since.Add(options.Patience)
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 20*time.Millisecond, 200*time.Millisecond
	for {
		err := l.try(ctx, by, batch)
		if errors.Is(err, context.Canceled) { // it may have been stored
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if !errors.Is(err, ErrUnavailable) {
			return err
		}
		wait := pause.NextBackOff()
		if time.Now().Add(wait).After(deadline) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

func (l *line) try(ctx context.Context, by link, batch []*entry) error {
	ctx, cancel := context.WithTimeout(ctx, l.client.options.CallTimeout)
	defer cancel()
	conn, err := by.get(ctx)
	if err != nil {
		return err
	}
	l.known.announce(ctx, conn, l.lane)
	// More than once only for those whose unique key another job has: does that job still live?
	for len(batch) > 0 {
		answers, err := run(ctx, conn, l.enqueue(batch))[0].ToArray()
		if err != nil {
			for _, e := range batch {
				e.sent = true
			}
			return redisError(ctx, err)
		}
		if len(answers) != len(batch) {
			return fmt.Errorf("enqueue: %d answers for %d jobs", len(answers), len(batch))
		}
		var again []*entry
		for i, e := range batch {
			e.err = nil
			if answers[i].IsInt64() {
				switch n, _ := answers[i].AsInt64(); {
				case n < 0:
					e.err = ErrQueueFull
				case l.client.options.Enqueued != nil && (n > 0 || e.sent):
					l.client.options.Enqueued(l.lane.queue, e.name)
				}
				continue
			}
			holder, err := answers[i].ToString()
			if err != nil {
				return fmt.Errorf("enqueue: %w", err)
			}
			if e.holder != holder {
				again = append(again, e)
			}
			e.holder, e.err = holder, &DuplicateError{holder}
		}
		batch = again
	}
	return nil
}

// enqueue is the call of enqueue.lua.
func (l *line) enqueue(batch []*entry) scriptCall {
	t := l.lane
	keys := t.keys(t.sched(), t.bell(), t.stat(), t.gone(), t.paused())
	args := make([]string, 0, 2+4*len(batch))
	args = append(args, strconv.Itoa(l.client.options.MaxPending), strconv.Itoa(len(batch)))
	for _, e := range batch {
		keys = append(keys, t.job(e.id))
		args = append(args, e.id, strconv.Itoa(e.priority), e.due, rueidis.BinaryString(e.record))
	}
	for i, e := range batch {
		if e.unique != "" {
			keys = append(keys, t.unique(e.unique), t.job(e.holder))
			args = append(args, strconv.Itoa(i+1), e.holder, e.scope.ttl())
		}
	}
	return enqueueScript.call(keys, args...)
}
