package app

import (
	"reflect"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2/server"
)

// memoryLimit is how much a MemoryRedis holds before it refuses more. The collector lets the process grow to twice of that.
const memoryLimit = 256 << 20

// limit makes the in-memory Redis refuse writes when the process holds too much, as a real one does at its maxmemory: with an OOM error, of
// commands that add something, and in scripts only before their first write, so that jobs can end there, and with them the shortage.
// What the process holds is what the collector found alive, and what has been written since: in `app dev` images count too.
type limit struct {
	bytes uint64 // set once

	mu      sync.Mutex
	live    uint64
	written uint64    // since live was read
	read    time.Time // when it was
	script  any       // the context of the last script that called a command
	refused bool      // that script began while there was no room
	wrote   bool      // that script has written
}

// newLimit takes half of GOMEMLIMIT where that is less: closer to it the collector would do nothing else.
func newLimit() *limit {
	return &limit{bytes: min(memoryLimit, uint64(debug.SetMemoryLimit(-1))/2)}
}

// adds are the commands that Redis marks denyoom, of those that miniredis knows and applications use.
var adds = func() map[string]bool {
	m := make(map[string]bool)
	for _, name := range []string{
		"SET", "SETEX", "PSETEX", "SETNX", "GETSET", "MSET", "MSETNX", "APPEND", "SETRANGE", "SETBIT", "INCR", "INCRBY", "INCRBYFLOAT", "DECR", "DECRBY",
		"LPUSH", "RPUSH", "LPUSHX", "RPUSHX", "LINSERT", "LSET", "RPOPLPUSH", "BRPOPLPUSH", "LMOVE", "BLMOVE", "SADD", "SINTERSTORE", "SUNIONSTORE",
		"SDIFFSTORE", "ZADD", "ZINCRBY", "ZUNIONSTORE", "ZINTERSTORE", "HSET", "HSETNX", "HMSET", "HINCRBY", "HINCRBYFLOAT", "XADD", "PFADD",
		"PFMERGE", "BITOP", "COPY", "GEOADD",
	} {
		m[name] = true
	}
	return m
}()

const outOfMemory = "OOM command not allowed when used memory > 'maxmemory'."

// refuses answers a command for which there is no room.
func (l *limit) refuses(redis *server.Server, c *server.Peer, command string, args []string) bool {
	adds := adds[command]
	nested := inScript(c)
	if !adds && !nested {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	refuse := false
	if nested {
		if l.script != c.Ctx { // one runs at a time
			l.script, l.wrote, l.refused = c.Ctx, false, l.full()
		}
		refuse = adds && l.refused && !l.wrote
		l.wrote = l.wrote || !refuse && command != "TIME" && !redis.IsReadOnlyCommand(command)
	} else {
		refuse = l.full()
	}
	if refuse {
		c.WriteError(outOfMemory)
		return true
	}
	if adds {
		for _, arg := range args {
			l.written += uint64(len(arg)) + 64
		}
	}
	return false
}

// full looks at most ten times a second at what is alive; in between what was written counts as alive.
func (l *limit) full() bool {
	if l.live+l.written <= l.bytes {
		return false
	}
	if time.Since(l.read) >= 100*time.Millisecond {
		runtime.GC()
		sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(sample)
		l.live, l.written, l.read = sample[0].Value.Uint64(), 0, time.Now()
	}
	return l.live+l.written > l.bytes
}

// inScript reports whether a script calls: its peers share a context that says so, and nothing exported does.
func inScript(c *server.Peer) bool {
	v := reflect.ValueOf(c.Ctx)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return false
	}
	nested := v.Elem().FieldByName("nested")
	return nested.Kind() == reflect.Bool && nested.Bool()
}
