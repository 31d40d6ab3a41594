package tasks

import (
	"context"
	"errors"
	"fmt"
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
	claimed   []*attempt
	leaseGone bool
	sleep     time.Duration // as claim.lua says; below 0: not this runner's task
	claimErr  error
	maybe     bool // with claimErr: the claim may have happened
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
	ctx, cancel := context.WithTimeout(r.work, r.client.options.CallTimeout)
	defer cancel()
	r.ask(ctx, &x)
	select {
	case r.exchanged <- x:
	case <-r.gone:
	}
}

func (r *Runner) ask(ctx context.Context, x *exchange) {
	conn, err := r.client.calls.get(ctx)
	if err != nil {
		x.ackErr, x.claimErr = err, err
		return
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
		keys := l.keys(l.act(), l.sched(), l.bell(), l.timer(), l.lease(x.runner))
		calls = append(calls, claimScript.call(keys, x.runner, strconv.FormatInt(x.seq, 10), strconv.Itoa(x.n)))
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
	if x.n > 0 {
		x.claimErr = r.takeClaims(ctx, conn, x, results[0])
	}
}

// takeClaims reads what claim.lua gave, and the records that belong to it.
func (r *Runner) takeClaims(ctx context.Context, conn rueidis.Client, x *exchange, result rueidis.RedisResult) error {
	answer, err := result.ToArray()
	if err != nil {
		_, refused := rueidis.IsRedisErr(err)
		x.maybe = !refused
		return redisError(ctx, err)
	}
	if first, _ := answer[0].AsInt64(); first != 1 {
		x.leaseGone = true
		return nil
	}
	// From here on the jobs are ours: whatever goes wrong, somebody must look for them.
	x.maybe = true
	now, err := answer[1].AsInt64()
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	sleep, err := answer[2].AsInt64()
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	x.sleep = time.Duration(sleep) * time.Millisecond
	if sleep < 0 {
		x.sleep = -1
	}
	arrived := time.Now()
	ids := make([]string, 0, len(answer)-3)
	for _, m := range answer[3:] {
		id, err := m.ToString()
		if err != nil {
			return fmt.Errorf("claim: %w", err)
		}
		ids = append(ids, id)
	}
	x.claimed = make([]*attempt, 0, len(ids))
	owner := x.runner + "|" + strconv.FormatInt(x.seq, 10) + "|"
	for len(ids) > 0 {
		n := min(len(ids), chunk(x.post.mean))
		keys := make([]string, n)
		for i, id := range ids[:n] {
			keys[i] = x.post.lane.job(id)
		}
		records, err := conn.Do(ctx, conn.B().Mget().Key(keys...).Build()).ToArray()
		if err == nil && len(records) != n {
			err = errors.New("mget: wrong number of answers")
		}
		if err != nil {
			x.claimed = nil
			return redisError(ctx, err)
		}
		size := 0
		for i, m := range records {
			raw, err := m.ToString()
			size += len(raw)
			a := &attempt{post: x.post, key: claimKey{ids[i], x.seq}, owner: owner, claimed: now, arrived: arrived}
			a.load([]byte(raw), err)
			x.claimed = append(x.claimed, a)
		}
		x.post.mean = size / n
		ids = ids[n:]
	}
	return nil
}

// chunk is how many records of a mean size one MGET may ask for: about a mebibyte.
func chunk(mean int) int { return max(1, min(claimAtOnce, (1<<20)/max(mean, 1))) }

// appendAck appends the arguments that ack.lua takes for one job.
func (a *attempt) appendAck(args []string) []string {
	ttl := keepGenerated
	if a.record.own {
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
