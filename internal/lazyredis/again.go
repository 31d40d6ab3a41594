package lazyredis

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/redis/rueidis"
)

// Patience is how long a call that may be made twice is repeated. The limits are times, not counts: each of a client's connections may
// have broken while nobody used it, and the library picks one at random and may need two failures to notice.
type Patience struct {
	Broken time.Duration // for connections that broke
	Away   time.Duration // for a server that cannot be reached or refuses now: clients hear of an outage at once
}

const firstPause, longestPause = 5 * time.Millisecond, 100 * time.Millisecond

// Again repeats a call that may be made twice while retry says so, in time. A call that hangs is not repeated: it takes longer than that.
func (p Patience) Again(ctx context.Context, retry func(error) bool, call func() error) error {
	start := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := call()
		if err == nil || !retry(err) {
			return err
		}
		patience := p.Away
		if broke(err) {
			patience = p.Broken
		}
		if time.Since(start)+pause > patience {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// broke reports whether an error is about a connection that was there: it says nothing about whether the server is there now. A failure to
// dial does, and so does any answer.
func broke(err error) bool {
	var op *net.OpError
	switch {
	case Answered(err), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, ErrClosed):
		return false
	case errors.As(err, &op):
		return op.Op != "dial"
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// Answered reports whether an error is what the server said.
func Answered(err error) bool {
	var said *rueidis.RedisError
	return errors.As(err, &said)
}
