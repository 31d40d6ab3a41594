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
	large  int  // bytes of the largest record, lately; 0 unknown
	last   bool // there is no other after it: the runner is about to go

	// The answer.
	held      []*attempt // of acks: ends that could not be saved, to be told later
	answers   []int64    // per ack, as ack.lua says
	ackErr    error
	now       int64   // Redis' clock at the claim, unix ms
	portion   portion // the first of what was claimed; the others follow it
	leaseGone bool
	sleep     time.Duration // as claim.lua says; below 0: not this runner's task
	bound     bool          // by the queue's limit of concurrency
	claimErr  error
	maybe     bool // with claimErr: jobs may have been claimed that nobody here knows
}

// The ops of ack.lua.
const (
	opDone      = 'd'
	opDoneNext  = 'f'
	opRetry     = 'r'
	opAgain     = 'a'
	opDead      = 'x'
	opRequeue   = 'q' // it never began
	opBack      = 'b' // it did
	opCancelled = 'c'
	opExpired   = 'e'
	opDrop      = 'n'
)

// ack is how a claim ends.
type ack struct {
	op      byte
	body    []byte        // record or header
	after   time.Duration // ttl or delay
	failure string
	next    *next // opDoneNext
	gone    bool  // opDrop: the record was not there
}

func (a *ack) size() int {
	if a.next != nil {
		return len(a.body) + len(a.next.record)
	}
	return len(a.body)
}

func (r *Runner) exchange(x exchange) {
	ids := r.ask(&x)
	claim := portion{post: x.post, runner: x.runner, seq: x.seq, large: x.large, now: x.now, arrived: time.Now()}
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
	unsaved := r.keep(x)
	n := x.n
	if unsaved != nil {
		x.claimErr, n = unsaved, 0
	}
	if n == 0 && len(x.acks) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.work, r.client.options.CallTimeout)
	defer cancel()
	conn, err := r.client.sends.get(ctx)
	if err != nil {
		x.ackErr, x.claimErr = err, err
		return nil
	}
	l := x.post.lane
	calls := make([]scriptCall, 0, 2)
	if len(x.acks) > 0 {
		calls = append(calls, l.ack(x.acks))
	}
	if n > 0 {
		calls = append(calls, l.claim(x.runner, x.seq, n, r.options.Lease, r.options.Weights.order()))
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
	if n == 0 {
		return nil
	}
	ids, err := x.readClaim(results[0])
	x.claimErr = redisError(ctx, err)
	return ids
}

// ackKeys are the keys that ack.lua takes before those of the jobs.
func (l lane) ackKeys() []string {
	return l.keys(l.act(), l.sched(), l.bell(), l.dead(), l.stat(), l.paused(), l.out(),
		l.recent(stateDone), l.recent(stateCancelled), l.recent(stateExpired))
}

// ack is the call of ack.lua.
func (l lane) ack(acks []*attempt) scriptCall {
	keys := make([]string, 0, 14+len(acks))
	keys = append(keys, l.ackKeys()...)
	args := append(make([]string, 0, 6+2*len(acks)), strconv.Itoa(len(acks)))
	alike := 0 // how many from the last kind on
	for i, a := range acks {
		keys = append(keys, l.job(a.key.id))
		if alike == 0 {
			alike = 1
			kind := a.kind()
			for i+alike < len(acks) && acks[i+alike].kind() == kind {
				alike++
			}
			args = append(args, string(kind.op), kind.owner, ms(kind.left), strconv.FormatInt(kind.after.Milliseconds(), 10), strconv.Itoa(alike))
		}
		alike--
		args = a.appendAck(args)
	}
	for i, a := range acks {
		if a.record.holds {
			keys = append(keys, l.unique(a.extra.unique))
			args = append(args, strconv.Itoa(i+1))
		}
	}
	return ackScript.call(keys, args...)
}

// ackKind is what ack.lua takes once for all the jobs in a row that end alike.
type ackKind struct {
	op    byte
	owner string
	left  time.Duration // ttl of what the job leaves if it was cancelled
	after time.Duration // ttl or delay
}

func (a *attempt) kind() ackKind {
	left := keepGenerated
	if a.record.own || a.record.name == "" { // or not read
		left = keepOwn
	}
	return ackKind{a.ack.op, a.owner, max(left, a.record.keep), a.ack.after}
}

// appendAck appends what ack.lua takes for each job.
func (a *attempt) appendAck(args []string) []string {
	args = append(args, a.key.id)
	switch a.ack.op {
	case opDone:
		args = append(args, rueidis.BinaryString(a.ack.body))
	case opDoneNext:
		args = append(args, rueidis.BinaryString(a.ack.body), a.ack.next.id, a.ack.next.kept())
	case opRetry, opAgain, opDead:
		args = append(args, rueidis.BinaryString(a.ack.body), encodeError(a.ack.failure))
	}
	return args
}

// claim is the call of claim.lua.
func (l lane) claim(runner string, seq int64, n int, lease time.Duration, order string) scriptCall {
	keys := l.keys(l.act(), l.sched(), l.bell(), l.timer(), l.gone(), l.lease(runner), l.cut(runner), l.wk(), l.paused(), l.lim(), l.rate())
	return claimScript.call(keys, runner, strconv.FormatInt(seq, 10), strconv.Itoa(n), ms(lease), order)
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
	bound, err := answer[3].AsInt64()
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	x.bound = bound == 1
	ids = make([]string, 0, len(answer)-4)
	for _, m := range answer[4:] {
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
	large   int   // bytes of the largest record, lately; 0 unknown
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
		n := min(len(ids), portionSize(x.large))
		records, err := r.read(x.post.lane, ids[:n])
		if err != nil && n > 1 {
			x.large = maxPayload // these may be much larger than those before: one at a time
			continue
		}
		if err != nil {
			x.err = err
			break
		}
		largest := 0
		for i, m := range records {
			raw, err := m.AsBytes() // nobody else has them
			largest = max(largest, len(raw))
			a := claimed(ids[i])
			a.load(raw, err)
			x.jobs = append(x.jobs, a)
		}
		freeUniques(x.post.lane, x.jobs, r.mux)
		// The largest of late: a larger one is felt at once, smaller ones make the portions grow by and by.
		x.large = max(largest, x.large/2, 1)
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
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = l.job(id)
	}
	var records []rueidis.RedisMessage
	err := r.client.doBy(r.work, r.client.sends, func(ctx context.Context, conn rueidis.Client) (err error) {
		records, err = conn.Do(ctx, conn.B().Mget().Key(keys...).Build()).ToArray()
		return err
	})
	if err == nil && len(records) != len(ids) {
		err = errors.New("mget: wrong number of answers")
	}
	return records, err
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
