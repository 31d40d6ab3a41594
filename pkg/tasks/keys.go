package tasks

import (
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"
)

const (
	maxKey   = 128 // characters of the last part of an id
	maxQueue = 64  // characters of a queue's name
	maxName  = 255 // bytes of a handler's name; the header keeps its length in three digits
)

// lane is one shard of one queue: all keys that one script may touch. Its tag is a hash tag, so that in a Redis cluster the keys
// of a lane lie on one node.
type lane struct {
	namespace string
	queue     string
	shard     int
	tag       string // {namespace:queue:shard}, the T of doc.go
}

// queuesKey is a SET of the names of all queues: the only key that belongs to no lane.
func queuesKey(namespace string) string { return "{" + namespace + "}:queues" }

func newLane(namespace, queue string, shard int) lane {
	return lane{namespace: namespace, queue: queue, shard: shard, tag: "{" + namespace + ":" + queue + ":" + strconv.Itoa(shard) + "}"}
}

func (l lane) job(id string) string       { return l.tag + ":j:" + id }
func (l lane) progress(id string) string  { return l.tag + ":prog:" + id }
func (l lane) lease(runner string) string { return l.tag + ":hb:" + runner }
func (l lane) cut(runner string) string   { return l.tag + ":cut:" + runner }
func (l lane) ctl(runner string) string   { return l.tag + ":ctl:" + runner }
func (l lane) wake(runner string) string  { return l.tag + ":wake:" + runner }
func (l lane) pending(priority int) string {
	return l.tag + ":p" + strconv.Itoa(priority)
}
func (l lane) unique(key string) string { return l.tag + ":u:" + key }
func (l lane) act() string              { return l.tag + ":act" }
func (l lane) sched() string            { return l.tag + ":sched" }
func (l lane) bell() string             { return l.tag + ":bell" }
func (l lane) timer() string            { return l.tag + ":timer" }
func (l lane) wk() string               { return l.tag + ":wk" }
func (l lane) gone() string             { return l.tag + ":gone" }
func (l lane) dead() string             { return l.tag + ":dead" }
func (l lane) stat() string             { return l.tag + ":stat" }
func (l lane) paused() string           { return l.tag + ":paused" }
func (l lane) out() string              { return l.tag + ":out" }
func (l lane) lim() string              { return l.tag + ":lim" }
func (l lane) rate() string             { return l.tag + ":rate" }

// recent is the list of what ended in that way lately; state as in a record.
func (l lane) recent(state byte) string { return l.tag + ":recent:" + string(state) }

// keys returns the pending lists by priority, then more: the order in which every script takes them.
func (l lane) keys(more ...string) []string {
	keys := make([]string, 0, priorities+len(more))
	for p := range priorities {
		keys = append(keys, l.pending(p))
	}
	return append(keys, more...)
}

// newKey makes the last part of an id: 48 bits of milliseconds and 80 random bits in 26 characters that sort by time.
func newKey() string { return ulid.MustNew(ulid.Now(), rand.Reader).String() }

// shardOf fixes the shard of a key for ever: the id alone must find the job.
func shardOf(key string, shards int) int {
	if shards <= 1 {
		return 0
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return int(h.Sum32() % uint32(shards))
}

// parseID splits `<queue>.<shard>.<key>`.
func parseID(namespace, id string) (lane, error) {
	queue, rest, ok := strings.Cut(id, ".")
	if !ok {
		return lane{}, fmt.Errorf("id %.200q: %w", id, ErrBadID)
	}
	number, key, ok := strings.Cut(rest, ".")
	shard, err := strconv.ParseUint(number, 10, 16)
	// Only the number's own spelling: 00 would be a second id for the same job.
	if !ok || err != nil || strconv.FormatUint(shard, 10) != number || !validQueue(queue) || !validKey(key) {
		return lane{}, fmt.Errorf("id %.200q: %w", id, ErrBadID)
	}
	return newLane(namespace, queue, int(shard)), nil
}

// validKey reports whether s may be the last part of an id: [A-Za-z0-9_:-]{1,128}.
func validKey(s string) bool { return len(s) <= maxKey && wordOf(s, "_:-") }

// validQueue reports whether s may name a queue: [A-Za-z0-9_-]{1,64}. No dot: it separates the parts of an id. No colon and
// no brace: they separate the parts of a key.
func validQueue(s string) bool { return len(s) <= maxQueue && wordOf(s, "_-") }

func wordOf(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(others, c) >= 0) {
			return false
		}
	}
	return s != ""
}
