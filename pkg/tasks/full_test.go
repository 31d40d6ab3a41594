package tasks

import (
	"context"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// A full Redis refuses the first write of a script if that could need memory, and after one that it admits all others. So each script but
// the enqueue passes, whatever it finds.
func TestEveryScriptPassesOnAFullRedis(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	full := func(e *env, is bool) {
		e.t.Helper()
		memory := "0"
		if is {
			memory = "1mb"
		}
		err := e.do(func(b rueidis.Builder) rueidis.Completed {
			return b.ConfigSet().ParameterValue().ParameterValue("maxmemory", memory).Build()
		}).Error()
		if err != nil {
			e.t.Fatal(err)
		}
	}
	const runner = "test/1/1"
	claim := func(e *env) scriptCall { return e.lane().claim(runner, 2, 5, time.Minute, "0123") }
	ring := func(e *env, runner string) scriptCall {
		l := e.lane()
		return ringScript.call(l.keys(l.sched(), l.bell(), l.timer(), l.paused()), runner)
	}
	set := func(key, value string) func(rueidis.Builder) rueidis.Completed {
		return func(b rueidis.Builder) rueidis.Completed { return b.Set().Key(key).Value(value).Build() }
	}
	for name, c := range map[string]struct {
		before func(e *env)
		call   func(e *env) scriptCall
	}{
		"claim of nothing":          {func(*env) {}, claim},
		"claim of what is there":    {func(e *env) { e.enqueue("x") }, claim},
		"claim of what is due":      {func(e *env) { e.enqueue("x", In(time.Millisecond)); time.Sleep(5 * time.Millisecond) }, claim},
		"claim with a timer to set": {func(e *env) { e.enqueue("x", In(time.Hour)) }, claim},
		"claim with an ended lease": {func(e *env) {
			e.do(func(b rueidis.Builder) rueidis.Completed { return b.Del().Key(e.lane().lease(runner)).Build() })
		}, claim},
		"claim of a queue at its limit": {func(e *env) {
			e.limited(Limit{Concurrency: 1})
			e.enqueue("x")
			e.claimAs("other/1/1", time.Minute)
			e.enqueue("x", In(time.Hour))
			e.enqueue("x")
		}, claim},
		"claim of a queue at its rate": {func(e *env) {
			e.limited(Limit{PerSecond: 0.01})
			e.enqueue("x")
			e.claimAs("other/1/1", time.Minute)
			e.enqueue("x")
		}, claim},
		"claim of a paused queue": {func(e *env) { e.enqueue("x"); e.pause("default") }, claim},
		"ring": {func(e *env) {
			e.enqueue("x")
			e.do(func(b rueidis.Builder) rueidis.Completed { return b.Del().Key(e.lane().bell()).Build() })
		}, func(e *env) scriptCall { return ring(e, runner) }},
		"ring of who has the timer": {func(e *env) { e.enqueue("x", In(time.Hour)); e.do(set(e.lane().timer(), "1|"+runner)) }, func(e *env) scriptCall { return ring(e, runner) }},
		"pause":                     {func(e *env) { e.enqueue("x") }, func(e *env) scriptCall { return pauseScript.call([]string{e.lane().paused(), e.lane().bell()}) }},
		"resume":                    {func(e *env) { e.enqueue("x"); e.pause("default") }, func(e *env) scriptCall { return resumeScript.call([]string{e.lane().paused(), e.lane().bell()}) }},
		"renew an ended lease": {func(e *env) {
			e.do(func(b rueidis.Builder) rueidis.Completed { return b.Del().Key(e.lane().lease(runner)).Build() })
		}, func(e *env) scriptCall {
			return renewScript.call([]string{e.lane().lease(runner), e.lane().cut(runner), e.lane().wk()}, runner, "1000")
		}},
		"expire": {func(*env) {}, func(e *env) scriptCall {
			return expireScript.call([]string{e.lane().lease(runner), e.lane().cut(runner)}, "1", "1000")
		}},
		"wake": {func(*env) {}, func(e *env) scriptCall { return wakeScript.call([]string{e.lane().wake(runner)}) }},
	} {
		// One after the other: they share the server's memory.
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, s.url())
			e.enqueue("x", Queue("another"))
			e.claimAs(runner, time.Minute)
			c.before(e)
			full(e, true)
			defer full(e, false)
			conn, err := e.c().calls.get(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if err := run(context.Background(), conn, c.call(e))[0].Error(); err != nil {
				t.Error(err)
			}
		})
	}
}

func (e *env) limited(limit Limit) {
	e.t.Helper()
	if err := e.c().Limit(context.Background(), "default", limit); err != nil {
		e.t.Fatal(err)
	}
}
