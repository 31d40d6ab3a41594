package tasks

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// Scope is how long a job holds its unique key.
type Scope time.Duration

const (
	// UntilDone: until the job has ended, however that was.
	UntilDone Scope = -1
	// UntilStart: until its first attempt begins: what changes from then on is worth another job.
	UntilStart Scope = -2
)

// For is how long, from the enqueue on, whatever becomes of the job meanwhile.
func For(d time.Duration) Scope { return Scope(d) }

// Unique lets a queue have one job with this key at a time; the enqueue of another fails with a DuplicateError. The key is like that of
// Key, and another one: it does not name the job, and it is free again when the scope is over. In a queue with shards it says which.
func Unique(key string, scope Scope) Option {
	return func(p *plan) { p.extra.unique, p.extra.scope, p.alone = key, scope, true }
}

// ErrDuplicate says that another job has the unique key. HTTP: 409, or the other's id.
var ErrDuplicate = errors.New("another job has the unique key")

// DuplicateError is an ErrDuplicate.
type DuplicateError struct{ Holder string } // the id of the job that has the key

func (e *DuplicateError) Error() string { return ErrDuplicate.Error() + ": " + e.Holder }
func (e *DuplicateError) Unwrap() error { return ErrDuplicate }

func (s Scope) valid() bool { return s == UntilDone || s == UntilStart || s >= Scope(time.Millisecond) }

// held reports whether the job has to give its key back; else the key has a time of its own.
func (s Scope) held() bool { return s == UntilDone || s == UntilStart }

// ttl is how long the key is there, as enqueue.lua takes it.
func (s Scope) ttl() string {
	if s.held() {
		return ""
	}
	return ms(time.Duration(s))
}

func (s Scope) encode() string {
	if s.held() {
		return strconv.Itoa(int(s))
	}
	return s.ttl()
}

func decodeScope(text string) (Scope, bool) {
	n, err := strconv.ParseInt(text, 10, 48)
	s := Scope(n)
	if n > 0 {
		s = Scope(time.Duration(n) * time.Millisecond)
	}
	return s, err == nil && s.valid()
}

// uniqueKey is the key that the job's end gives back, "" if there is none.
func (r *record) uniqueKey(l lane) string {
	if !r.holds {
		return ""
	}
	x, err := decodeExtra(r.extra)
	if err != nil || x.unique == "" {
		return ""
	}
	return l.unique(x.unique)
}

// uniqueKeys reads from Redis which keys jobs have to give back: those of ids[i] in keys[i], "" for none.
func (l lane) uniqueKeys(ctx context.Context, conn rueidis.Client, ids ...string) (keys []string, err error) {
	heads := make(rueidis.Commands, len(ids))
	for i, id := range ids {
		heads[i] = conn.B().Getrange().Key(l.job(id)).Start(0).End(headerSize + maxName - 1).Build()
	}
	keys = make([]string, len(ids))
	for i, answer := range conn.DoMulti(ctx, heads...) {
		raw, err := answer.AsBytes()
		if err != nil {
			return nil, err
		}
		r, err := decodeHeader(raw)
		if err != nil || !r.holds {
			continue // gone, or not ours to read
		}
		from := int64(headerSize + len(r.name))
		if r.extra, err = conn.Do(ctx, conn.B().Getrange().Key(l.job(ids[i])).Start(from).End(from+int64(r.extraSize)-1).Build()).AsBytes(); err != nil {
			return nil, err
		}
		keys[i] = r.uniqueKey(l)
	}
	return keys, nil
}

// uniques are the unique keys of jobs of one claim that are free when these begin: what changes from then on shall find them free. The first
// job to begin gives all of them back, for by then none of them goes back to its queue without having begun; but if Redis does not answer, they
// do, and take their keys again (ack.lua).
type uniques struct {
	lane lane
	keys []string
	ids  []string

	once sync.Once
	err  error
}

// freeUniques finds what has to be given back before these jobs begin.
func freeUniques(l lane, jobs []*attempt, mux *Mux) {
	var u *uniques
	for _, a := range jobs {
		if a.extra.scope == UntilStart && a.ack.op == 0 && mux.knows(a.record.name) {
			if u == nil {
				u = &uniques{lane: l}
			}
			u.keys, u.ids = append(u.keys, l.unique(a.extra.unique)), append(u.ids, a.key.id)
			a.uniques = u
		}
	}
}

func (u *uniques) giveBack(r *Runner) error {
	u.once.Do(func() {
		u.err = r.client.do(r.work, func(ctx context.Context, conn rueidis.Client) error {
			return run(ctx, conn, releaseScript.call(u.keys, u.ids...))[0].Error()
		})
	})
	return u.err
}

// verifyUnique checks a unique key: what its job has to give back is held by one that has not ended.
func (b *Books) verifyUnique(ctx context.Context, conn rueidis.Client, l lane, key string, ttl int64) error {
	if ttl != -1 {
		return nil // it goes by itself
	}
	holder, err := conn.Do(ctx, conn.B().Get().Key(key).Build()).ToString()
	if err != nil {
		if rueidis.IsRedisNil(err) {
			return nil
		}
		return redisError(ctx, err)
	}
	state, err := conn.Do(ctx, conn.B().Getrange().Key(l.job(holder)).Start(1).End(1).Build()).ToString()
	if err != nil {
		return redisError(ctx, err)
	}
	if state != string(statePending) {
		b.problem("%s is held by %s, which has ended: it leaks", key, holder)
	}
	return nil
}

// verifyHolder checks that a job has the unique key that it must have until its end, or until it begins.
func (b *Books) verifyHolder(ctx context.Context, conn rueidis.Client, l lane, id string, r *record, running bool) (err error) {
	from := int64(headerSize + len(r.name))
	if r.extra, err = conn.Do(ctx, conn.B().Getrange().Key(l.job(id)).Start(from).End(from+int64(r.extraSize)-1).Build()).AsBytes(); err != nil {
		return redisError(ctx, err)
	}
	x, err := decodeExtra(r.extra)
	if err != nil {
		b.problem("%s: %s", id, err)
		return nil
	}
	if x.scope != UntilDone && (running || r.begun()) {
		return nil
	}
	holder, err := conn.Do(ctx, conn.B().Get().Key(l.unique(x.unique)).Build()).ToString()
	if err != nil && !rueidis.IsRedisNil(err) {
		return redisError(ctx, err)
	}
	if holder != id {
		b.problem("%s has not ended, or not begun, and its unique key %s is held by %q", id, x.unique, holder)
	}
	return nil
}
