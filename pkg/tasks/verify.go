package tasks

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Books is what Redis holds of some queues, counted from outside: by reading the keys, not by the scripts that wrote them.
type Books struct {
	Accepted, Done, Dead, Cancelled, Expired, Lost int64 // counted by the scripts, for ever
	Pending, Scheduled, Running                    int64 // ids that lie there now
	Dropping                                       int64 // cancelled ids that still lie in a pending list
	Following                                      int64 // jobs that follow one that is done, and are not in their queue yet
	Retried, Postponed, Crashed                    int64
	Revived                                        int64    // dead ones that somebody retried: each ends once more
	Problems                                       []string // what breaks an invariant of doc.go, a sentence each
}

// Rest reports whether nothing is under way.
func (b Books) Rest() bool {
	return b.Pending == 0 && b.Scheduled == 0 && b.Running == 0 && b.Dropping == 0 && b.Following == 0
}

const maxProblems = 100

func (b *Books) problem(format string, args ...any) {
	if len(b.Problems) < maxProblems {
		b.Problems = append(b.Problems, fmt.Sprintf(format, args...))
	}
}

// Verify reads the queues and checks the invariants. It reads key by key: while jobs move it may see one twice or not at all, so ask
// for problems when nothing moves (runners stopped, or nothing left to do). It reads every key: not for a hot path.
func Verify(ctx context.Context, c *Client, queues ...string) (Books, error) {
	var b Books
	conn, err := c.calls.get(ctx)
	if err != nil {
		return b, err
	}
	for _, queue := range queues {
		for shard := range c.options.Shards {
			if err := b.verifyLane(ctx, conn, newLane(c.options.Namespace, queue, shard)); err != nil {
				return b, fmt.Errorf("verify %s, shard %d: %w", queue, shard, err)
			}
		}
	}
	return b, nil
}

func (b *Books) verifyLane(ctx context.Context, conn rueidis.Client, l lane) error {
	places := make(map[string][]string) // id -> where it lies
	for p := range priorities {
		for from := int64(0); ; from += 1000 {
			ids, err := conn.Do(ctx, conn.B().Lrange().Key(l.pending(p)).Start(from).Stop(from+999).Build()).AsStrSlice()
			if err != nil {
				return redisError(ctx, err)
			}
			for _, id := range ids {
				places[id] = append(places[id], "p"+strconv.Itoa(p))
			}
			if len(ids) < 1000 {
				break
			}
		}
	}
	members, err := conn.Do(ctx, conn.B().Zrange().Key(l.sched()).Min("0").Max("-1").Build()).AsStrSlice()
	if err != nil {
		return redisError(ctx, err)
	}
	for _, m := range members {
		if m == "" {
			b.problem("an empty id is scheduled")
			continue
		}
		places[m[1:]] = append(places[m[1:]], "sched")
	}
	claims, err := conn.Do(ctx, conn.B().Hgetall().Key(l.act()).Build()).AsStrMap()
	if err != nil {
		return redisError(ctx, err)
	}
	runners, err := conn.Do(ctx, conn.B().Zrange().Key(l.wk()).Min("0").Max("-1").Build()).AsStrSlice()
	if err != nil {
		return redisError(ctx, err)
	}
	for id, value := range claims {
		places[id] = append(places[id], "act")
		if o, ok := parseOwner(value); !ok {
			b.problem("%s: act holds %q", id, value)
		} else if !slices.Contains(runners, o.runner) {
			b.problem("%s: its runner %s is not in wk: nobody would reap it", id, o.runner)
		}
	}
	stat, err := conn.Do(ctx, conn.B().Hgetall().Key(l.stat()).Build()).AsIntMap()
	if err != nil {
		return redisError(ctx, err)
	}
	gone, err := conn.Do(ctx, conn.B().Smembers().Key(l.gone()).Build()).AsStrSlice()
	if err != nil {
		return redisError(ctx, err)
	}
	tokens, err := conn.Do(ctx, conn.B().Llen().Key(l.bell()).Build()).AsInt64()
	if err != nil {
		return redisError(ctx, err)
	}
	if tokens > 1 {
		b.problem("%s holds %d tokens", l.bell(), tokens)
	}

	following, err := conn.Do(ctx, conn.B().Hlen().Key(l.out()).Build()).AsInt64()
	if err != nil {
		return redisError(ctx, err)
	}
	b.Following += following

	keys, err := scan(ctx, conn, l, "*")
	if err != nil {
		return err
	}
	jobs, dropping := make(map[string]bool), make(map[string]bool)
	for _, key := range keys {
		name := strings.TrimPrefix(key, l.tag+":")
		ttl, err := conn.Do(ctx, conn.B().Pttl().Key(key).Build()).AsInt64()
		if err != nil {
			return redisError(ctx, err)
		}
		kind, rest, _ := strings.Cut(name, ":")
		switch kind {
		case "j":
			if ttl == -2 {
				continue // its time ended while we read
			}
			jobs[rest] = true
			state, err := b.verifyJob(ctx, conn, l, rest, ttl, places[rest])
			if err != nil {
				return err
			}
			dropping[rest] = state == stateCancelled
		case "u":
			if err := b.verifyUnique(ctx, conn, l, key, ttl); err != nil {
				return err
			}
		case "p0", "p1", "p2", "p3", "act", "sched", "bell", "wk", "stat", "gone", "paused", "out", "lim", "recent":
			if ttl >= 0 {
				b.problem("%s has a TTL: jobs would go with it", key)
			}
		case "hb", "cut", "ctl", "wake", "prog", "dead", "timer", "rate", "owed":
			if ttl == -1 {
				b.problem("%s has no TTL: it leaks", key)
			}
		default:
			b.problem("%s is no key of ours", key)
		}
	}
	for _, id := range gone {
		if !dropping[id] || len(places[id]) == 0 || places[id][0] == "act" {
			b.problem("%s is counted as cancelled in a list, and is none: max_pending would admit too many", id)
		}
	}
	for id, where := range places {
		if len(where) > 0 && where[0] != "act" && dropping[id] && !slices.Contains(gone, id) {
			b.problem("%s was cancelled in a list, and is not counted as such: max_pending would admit too few", id)
		}
		if len(where) > 1 {
			b.problem("%s lies in %s", id, strings.Join(where, " and "))
		}
		if !jobs[id] {
			b.problem("%s lies in %s and has no record", id, where[0])
		}
		if !strings.HasPrefix(id, l.queue+"."+strconv.Itoa(l.shard)+".") {
			b.problem("%q is no id of this lane", id)
		}
	}
	b.Accepted += stat["accepted"]
	b.Done += stat["done"]
	b.Dead += stat["dead"]
	b.Cancelled += stat["cancelled"]
	b.Expired += stat["expired"]
	b.Lost += stat["lost"]
	b.Retried += stat["retried"]
	b.Postponed += stat["postponed"]
	b.Crashed += stat["crashed"]
	b.Revived += stat["revived"]
	var under int64
	for id, where := range places {
		switch {
		case dropping[id]: // it has ended already
			b.Dropping++
			continue
		case where[0] == "act":
			b.Running++
		case where[0] == "sched":
			b.Scheduled++
		default:
			b.Pending++
		}
		under++
	}
	if ended := stat["done"] + stat["dead"] + stat["cancelled"] + stat["expired"] + stat["lost"]; stat["accepted"]+stat["revived"] != ended+under {
		b.problem("the books of %s do not balance: accepted %d + revived %d, done %d + dead %d + cancelled %d + expired %d + lost %d + under way %d",
			l.tag, stat["accepted"], stat["revived"], stat["done"], stat["dead"], stat["cancelled"], stat["expired"], stat["lost"], under)
	}
	return nil
}

func (b *Books) verifyJob(ctx context.Context, conn rueidis.Client, l lane, id string, ttl int64, where []string) (state byte, err error) {
	raw, err := conn.Do(ctx, conn.B().Getrange().Key(l.job(id)).Start(0).End(headerSize+maxName-1).Build()).AsBytes()
	if err != nil {
		return 0, redisError(ctx, err)
	}
	if len(raw) == 0 {
		return 0, nil
	}
	r, err := decodeHeader(raw)
	if err != nil {
		b.problem("%s: %s", id, err)
		return 0, nil
	}
	if r.holds && !r.terminal() {
		if err := b.verifyHolder(ctx, conn, l, id, &r, slices.Contains(where, "act")); err != nil {
			return 0, err
		}
	}
	switch {
	case !r.terminal():
		if len(where) == 0 {
			b.problem("%s has not ended and lies nowhere", id)
		}
		if ttl >= 0 {
			b.problem("%s has not ended and has a TTL of %s", id, time.Duration(ttl)*time.Millisecond)
		}
	case r.state == stateCancelled && len(where) > 0:
		// It waits to be dropped, and keeps its record so long.
	case len(where) > 0:
		b.problem("%s has ended (%c) and still lies in %s", id, r.state, where[0])
	case ttl == -1:
		b.problem("%s has ended (%c) and has no TTL: it leaks", id, r.state)
	}
	return r.state, nil
}

// scan returns the keys of the lane whose names match after its tag. In a cluster a plain SCAN would go to any node.
func scan(ctx context.Context, conn rueidis.Client, l lane, names string) ([]string, error) {
	var keys []string
	for cursor := "0"; ; {
		page, err := run(ctx, conn, scanScript.call([]string{l.act()}, cursor, l.tag+":"+names))[0].ToArray()
		if err != nil {
			return nil, redisError(ctx, err)
		}
		if len(page) != 2 {
			return nil, fmt.Errorf("scan: %d answers", len(page))
		}
		found, err := page[1].AsStrSlice()
		if err != nil {
			return nil, err
		}
		keys = append(keys, found...)
		if cursor, err = page[0].ToString(); err != nil {
			return nil, err
		}
		if cursor == "0" {
			break
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}
