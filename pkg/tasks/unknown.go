package tasks

import (
	"fmt"
	"regexp"
	"time"

	"go.uber.org/zap"
)

// A job whose name has no handler here is not begun: it waits like a retry, for a runner of another version that knows it, and is counted as
// postponed. Since when it does so stands in its error: a runner that has a handler writes another, so that a job which was only unknown to
// some has all its time again.

var unknownSince = regexp.MustCompile(`^no handler for ".*" here since (\S+Z):`)

// unknown is how the claim of such a job ends.
func (a *attempt) unknown(mux *Mux, limit time.Duration, log *zap.Logger) ack {
	rec := a.record
	now := moment(a.claimed).UTC()
	since := now
	if found := unknownSince.FindStringSubmatch(rec.failure); found != nil {
		if at, err := time.Parse(time.RFC3339, found[1]); err == nil {
			since = at
		}
	}
	text := fmt.Sprintf("no handler for %q here since %s: known are %s", rec.name, since.Format(time.RFC3339), quoted(mux.Names()))
	fields := []zap.Field{zap.String("job", a.key.id), zap.String("name", rec.name), zap.Time("since", since)}
	if now.Sub(since) >= limit {
		log.Error("job is dead: nobody has a handler for its name", fields...)
		rec.finished = a.claimed
		return rec.dead(text)
	}
	rec.postponed++
	delay := againDelay(rec.postponed)
	log.Warn("job is postponed: there is no handler for its name here", append(fields, zap.Duration("for", delay))...)
	return ack{op: opAgain, body: rec.header(), after: delay, failure: text}
}
