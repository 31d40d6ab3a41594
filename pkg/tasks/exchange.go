package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// exchange is one round trip for one lane: ends of jobs, then a claim for the free slots.
type exchange struct {
	post   *post
	acks   []*attempt
	n      int // jobs to claim; 0: none
	seq    int64
	runner string

	// The answer.
	answers   []int64 // per ack, as ack.lua says
	ackErr    error
	now       int64   // Redis' clock at the claim, unix ms
	portion   portion // the first of what was claimed; the others follow it
	leaseGone bool
	sleep     time.Duration // as claim.lua says; below 0: not this runner's task
	claimErr  error
	maybe     bool // with claimErr: jobs may have been claimed that nobody here knows
}

// The ops of ack.lua.
const (
	opDone      = 'd'
	opRetry     = 'r'
	opAgain     = 'a'
	opDead      = 'x'
	opRequeue   = 'q'
	opCancelled = 'c'
	opDrop      = 'n'
)

// ack is how a claim ends.
type ack struct {
	op      byte
	body    []byte        // record or header
	after   time.Duration // ttl or delay
	failure string
	gone    bool // opDrop: the record was not there
}

func (r *Runner) exchange(x exchange) {
	ids := r.ask(&x)
	claim := portion{post: x.post, runner: x.runner, seq: x.seq, now: x.now, arrived: time.Now()}
	for first := true; ; first = false {
		if len(ids) > 0 {
			ids = r.fetch(&claim, ids)
		}
		claim.rest = len(ids)
		if first {
			x.portion = claim
			if claim.err != nil {
				x.claimErr = claim.err
			}
			select {
			case r.exchanged <- x:
			case <-r.gone:
				return
			}
		} else {
			select {
			case r.fetched <- claim:
			case <-r.gone:
				return
			}
		}
		if len(ids) == 0 {
			return
		}
	}
}

// ask tells the ends, claims, and returns the ids of what was claimed.
func (r *Runner) ask(x *exchange) []string {
	ctx, cancel := context.WithTimeout(r.work, r.client.options.CallTimeout)
	defer cancel()
	conn, err := r.client.calls.get(ctx)
	if err != nil {
		x.ackErr, x.claimErr = err, err
		return nil
	}
	l := x.post.lane
	calls := make([]scriptCall, 0, 2)
	if len(x.acks) > 0 {
		keys := l.keys(l.act(), l.sched(), l.bell(), l.dead(), l.stat())
		args := append(make([]string, 0, 1+7*len(x.acks)), strconv.Itoa(len(x.acks)))
		for _, a := range x.acks {
			keys = append(keys, l.job(a.key.id))
			args = a.appendAck(args)
		}
		calls = append(calls, ackScript.call(keys, args...))
	}
	if x.n > 0 {
		calls = append(calls, l.claim(x.runner, x.seq, x.n, r.options.Lease))
	}
	results := run(ctx, conn, calls...)
	if len(x.acks) > 0 {
		x.answers, err = results[0].AsIntSlice()
		if err == nil && len(x.answers) != len(x.acks) {
			err = fmt.Errorf("ack: %d answers for %d jobs", len(x.answers), len(x.acks))
		}
		x.ackErr = redisError(ctx, err)
		results = results[1:]
	}
	if x.n == 0 {
		return nil
	}
	ids, err := x.readClaim(results[0])
	x.claimErr = redisError(ctx, err)
	return ids
}

// claim is the call of claim.lua.
func (l lane) claim(runner string, seq int64, n int, lease time.Duration) scriptCall {
	keys := l.keys(l.act(), l.sched(), l.bell(), l.timer(), l.gone(), l.lease(runner), l.cut(runner), l.wk())
	return claimScript.call(keys, runner, strconv.FormatInt(seq, 10), strconv.Itoa(n), ms(lease))
}

// readClaim reads what claim.lua gave.
func (x *exchange) readClaim(result rueidis.RedisResult) (ids []string, err error) {
	answer, err := result.ToArray()
	if err != nil {
		_, refused := rueidis.IsRedisErr(err)
		x.maybe = !refused
		return nil, err
	}
	if first, _ := answer[0].AsInt64(); first != 1 {
		x.leaseGone = true
		return nil, nil
	}
	x.maybe = true // the jobs are ours: if this cannot be read somebody must look for them
	if x.now, err = answer[1].AsInt64(); err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	sleep, err := answer[2].AsInt64()
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	x.sleep = time.Duration(sleep) * time.Millisecond
	if sleep < 0 {
		x.sleep = -1
	}
	for _, m := range answer[3:] {
		id, err := m.ToString()
		if err != nil {
			return nil, fmt.Errorf("claim: %w", err)
		}
		ids = append(ids, id)
	}
	x.maybe = false
	return ids, nil
}

// portion is a part of what a claim gave, read and ready to start. Each starts while the next is on its way, so that large payloads
// delay nobody but themselves.
type portion struct {
	post    *post
	runner  string
	seq     int64
	now     int64 // Redis' clock at the claim, unix ms
	arrived time.Time
	jobs    []*attempt
	rest    int   // how many are still to come
	err     error // redis did not give the records: these jobs go back
}

// fetch reads the records of the next portion, and returns the ids that remain. What cannot be read goes back to the front: the loop
// learns of every claim.
func (r *Runner) fetch(x *portion, ids []string) (rest []string) {
	owner := owner{runner: x.runner, seq: x.seq}.prefix()
	claimed := func(id string) *attempt {
		return &attempt{post: x.post, key: claimKey{id, x.seq}, owner: owner, claimed: x.now, arrived: x.arrived}
	}
	x.jobs = make([]*attempt, 0, len(ids))
	for r.fetching.Err() == nil { // a runner that stops starts nothing any more
		n := min(len(ids), portionSize(x.post.large))
		records, err := r.read(x.post.lane, ids[:n])
		if err != nil && n > 1 {
			x.post.large = maxPayload // these may be much larger than those before: one at a time
			continue
		}
		if err != nil {
			x.err = err
			break
		}
		largest := 0
		for i, m := range records {
			raw, err := m.ToString()
			largest = max(largest, len(raw))
			a := claimed(ids[i])
			a.load([]byte(raw), err)
			x.jobs = append(x.jobs, a)
		}
		// The largest of late: a larger one is felt at once, smaller ones make the portions grow by and by.
		x.post.large = max(largest, x.post.large/2, 1)
		return ids[n:]
	}
	for _, id := range slices.Backward(ids) { // the oldest last: each goes to the front
		a := claimed(id)
		a.ack.op = opRequeue
		x.jobs = append(x.jobs, a)
	}
	return nil
}

func (r *Runner) read(l lane, ids []string) ([]rueidis.RedisMessage, error) {
	ctx, cancel := context.WithTimeout(r.work, r.client.options.CallTimeout)
	defer cancel()
	conn, err := r.client.calls.get(ctx)
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = l.job(id)
	}
	records, err := conn.Do(ctx, conn.B().Mget().Key(keys...).Build()).ToArray()
	if err == nil && len(records) != len(ids) {
		err = errors.New("mget: wrong number of answers")
	}
	return records, redisError(ctx, err)
}

// portionBytes is what one MGET may bring: little enough for a slow line, and for Redis to do nothing else meanwhile.
const portionBytes = 1 << 20

// portionSize is how many records one MGET may ask for when the largest has that size. Of the first nothing is known: it comes alone.
func portionSize(largest int) int {
	if largest == 0 {
		return 1
	}
	return max(1, min(claimAtOnce, portionBytes/largest))
}

// appendAck appends the arguments that ack.lua takes for one job.
func (a *attempt) appendAck(args []string) []string {
	ttl := keepGenerated
	if a.record.own || a.record.name == "" { // or not read
		ttl = keepOwn
	}
	if a.record.keep > ttl {
		ttl = a.record.keep
	}
	args = append(args, string(a.ack.op), a.key.id, a.owner, strconv.FormatInt(ttl.Milliseconds(), 10))
	switch a.ack.op {
	case opDone:
		args = append(args, rueidis.BinaryString(a.ack.body), strconv.FormatInt(a.ack.after.Milliseconds(), 10))
	case opRetry, opAgain, opDead:
		args = append(args, rueidis.BinaryString(a.ack.body), strconv.FormatInt(a.ack.after.Milliseconds(), 10), encodeError(a.ack.failure))
	}
	return args
}
