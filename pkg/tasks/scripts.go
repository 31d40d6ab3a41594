package tasks

import (
	"context"
	"crypto/sha1"
	"embed"
	"encoding/hex"

	"github.com/redis/rueidis"
)

// Each script lies in a file of its own, with its KEYS, ARGV and returns on top. They declare all keys that they touch, all of
// one lane.
//
//go:embed lua/*.lua
var luaFiles embed.FS

var (
	enqueueScript  = newScript("enqueue", "clock", "bell")
	claimScript    = newScript("claim", "clock", "bell", "lease")
	ackScript      = newScript("ack", "record", "clock", "bell", "recent")
	cancelScript   = newScript("cancel", "record", "clock", "recent")
	releaseScript  = newScript("release", "record")
	statusScript   = newScript("status", "record")
	registerScript = newScript("register")
	renewScript    = newScript("renew", "lease")
	leaveScript    = newScript("leave", "bell")
	ringScript     = newScript("ring", "bell")
	wakeScript     = newScript("wake")
	expireScript   = newScript("expire")
	reapScript     = newScript("reap", "record", "clock", "bell", "recent")
	pauseScript    = newScript("pause", "clock")
	resumeScript   = newScript("resume", "bell")
	retryScript    = newScript("retry", "record", "bell")
	buryScript     = newScript("bury")
	sweepScript    = newScript("sweep")
	nowScript      = newScript("now")
	scanScript     = newScript("scan")
)

type script struct{ source, sha string }

// newScript puts the shared parts before the script.
func newScript(name string, parts ...string) *script {
	var source []byte
	for _, part := range append(parts, name) {
		b, err := luaFiles.ReadFile("lua/" + part + ".lua")
		if err != nil {
			panic(err) // the files are part of the program
		}
		source = append(source, b...)
	}
	sum := sha1.Sum(source)
	return &script{source: string(source), sha: hex.EncodeToString(sum[:])}
}

// scriptCall is one run of a script.
type scriptCall struct {
	script *script
	keys   []string
	args   []string
}

func (s *script) call(keys []string, args ...string) scriptCall { return scriptCall{s, keys, args} }

// run sends all calls in one round trip, in this order. A server that does not know a script (it restarted) gets its source. The
// order between that call and the ones after it is then lost; no caller here needs it, one round trip is what they want.
func run(ctx context.Context, c rueidis.Client, calls ...scriptCall) []rueidis.RedisResult {
	commands := make([]rueidis.Completed, len(calls))
	for i, s := range calls {
		commands[i] = c.B().Evalsha().Sha1(s.script.sha).Numkeys(int64(len(s.keys))).Key(s.keys...).Arg(s.args...).Build()
	}
	results := c.DoMulti(ctx, commands...)
	for i, s := range calls {
		if e, ok := rueidis.IsRedisErr(results[i].Error()); ok && e.IsNoScript() {
			results[i] = c.Do(ctx, c.B().Eval().Script(s.script.source).Numkeys(int64(len(s.keys))).Key(s.keys...).Arg(s.args...).Build())
		}
	}
	return results
}
