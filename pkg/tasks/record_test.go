package tasks

import (
	"reflect"
	"strconv"
	"testing"
	"time"
)

// What a record says survives being written again, and what is none is refused.
func FuzzRecord(f *testing.F) {
	full := record{
		state: statePending, priority: 3, own: true, attempt: 2, max: 8, crashes: 1, postponed: 4, timeout: time.Minute, keep: time.Hour,
		enqueued: 1, started: 2, finished: 3, expires: 4, deadline: 5, holds: true, name: "name", extra: []byte("u\x01a"), payload: []byte("payload"),
	}
	f.Add(full.encode())
	f.Add(append(full.encode(), encodeError("it failed")...))
	f.Add((&record{state: stateDone}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		head, err := decodeHeader(b)
		if err != nil {
			if _, err := decode(b); err == nil {
				t.Fatalf("%q is no header, and a record", b)
			}
			return
		}
		r, err := decode(b)
		if err != nil {
			return
		}
		if r.name != head.name || r.state != head.state {
			t.Fatalf("%+v in a record with the header %+v", r, head)
		}
		again, err := decode(append(r.encode(), encodeError(r.failure)...))
		if again.failure = r.failure; err != nil || !reflect.DeepEqual(again, r) { // a text is cut where it is written
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}

// An id has one spelling, and all that it names is in it.
func FuzzID(f *testing.F) {
	for _, id := range []string{"default.0.01J", "a-b_c.65535.x:y", "default.00.x", "default.0.", ".0.x", "default.-1.x", "a.0.b.c"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		l, err := parseID("n", id)
		if err != nil {
			return
		}
		key := id[len(l.queue)+len(".0.")+len(strconv.Itoa(l.shard))-1:]
		if again := l.queue + "." + strconv.Itoa(l.shard) + "." + key; again != id {
			t.Fatalf("%q is %q", id, again)
		}
		if !validQueue(l.queue) || !validKey(key) || l.tag != newLane("n", l.queue, l.shard).tag {
			t.Fatalf("%q: %+v", id, l)
		}
	})
}
