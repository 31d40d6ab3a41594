package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"supervisor/internal/lazyredis"
	"supervisor/pkg/tasks"
)

// redisOptions reads the URL of a Redis. Its errors do not repeat it: it may hold a password.
func redisOptions(url string) (rueidis.ClientOption, error) {
	options, err := lazyredis.Parse(url)
	if err != nil || options.InitAddress[0] == "" {
		return options, errors.New("want redis://[user:password@]host[:port][/db], rediss://… or unix:/path; in a password write % / ? # : @ as %25 %2F %3F %23 %3A %40")
	}
	options.ForceSingleClient = len(options.InitAddress) == 1
	options.Dialer.Timeout = time.Second
	options.PipelineMultiplex = 2 // four connections: an upload of megabytes does not hold up the next
	options.ClientName = "app"
	return options, nil
}

// connection is a Redis that may be away.
type connection struct{ *lazyredis.Link }

// get gives the client, or why there is none.
func (c connection) get(ctx context.Context) (rueidis.Client, error) {
	client, err := c.Get(ctx)
	var failed *lazyredis.DialError
	switch {
	case errors.Is(err, lazyredis.ErrClosed):
		return nil, tasks.ErrClosed
	case errors.As(err, &failed):
		return nil, fmt.Errorf("%w: %w", tasks.ErrUnavailable, failed.Err)
	}
	return client, err
}

// try makes a call that may be made twice, and gives its error a name that callers know. nil of Redis is errNotStored.
func (c connection) try(ctx context.Context, do func(context.Context, rueidis.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := again(ctx, func(err error) bool { return !answered(err) }, func() error {
		client, err := c.get(ctx)
		if err != nil {
			return err
		}
		return do(ctx, client)
	})
	switch {
	case err == nil:
		return nil
	case rueidis.IsRedisNil(err):
		return errNotStored
	case errors.Is(err, tasks.ErrUnavailable):
		return fmt.Errorf("store: %w", err)
	case answered(err) && strings.Contains(err.Error(), "OOM command not allowed"):
		return fmt.Errorf("store: %w: %w", tasks.ErrFull, err)
	case answered(err) && tasks.Refusal(err) == "":
		return fmt.Errorf("store: %w", err) // a bug of ours, or not our data
	}
	return fmt.Errorf("store: %w: %w", tasks.ErrUnavailable, err)
}

// How long a call that may be made twice is repeated. The limits are times, not counts: each of a client's connections (six here) may have
// broken while nobody used it, and the library picks one at random and may need two failures to notice.
const (
	// brokenPatience is for connections that broke: the same second that an enqueue has (tasks.Options.Patience).
	brokenPatience = time.Second
	// awayPatience is for a server that cannot be reached or refuses now: clients hear of an outage at once.
	awayPatience = 60 * time.Millisecond

	firstPause, longestPause = 5 * time.Millisecond, 100 * time.Millisecond
)

// again repeats a call that may be made twice while retry says so, in time. A call that hangs is not repeated: it takes longer than that.
func again(ctx context.Context, retry func(error) bool, call func() error) error {
	start := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := call()
		if err == nil || !retry(err) {
			return err
		}
		patience := awayPatience
		if broke(err) {
			patience = brokenPatience
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
	case answered(err), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, tasks.ErrClosed):
		return false
	case errors.As(err, &op):
		return op.Op != "dial"
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// answered reports whether an error is what the server said.
func answered(err error) bool {
	var said *rueidis.RedisError
	return errors.As(err, &said)
}

// lasting are the answers of a Redis that will go on to refuse us until somebody changes a setting.
var lasting = []string{"WRONGPASS", "NOAUTH", "NOPERM", "ERR invalid password", "ERR invalid DB", "ERR DB index", "ERR AUTH", "ERR Client sent AUTH"}

// IsRefusal reports whether Redis answered, and will go on to refuse us: a wrong password, a database that is not there, a version
// that is too old.
func IsRefusal(err error) bool {
	if err == nil {
		return false
	}
	var said *rueidis.RedisError
	if !errors.As(err, &said) {
		return !errors.Is(err, tasks.ErrUnavailable)
	}
	for _, prefix := range lasting {
		if strings.HasPrefix(said.Error(), prefix) {
			return true
		}
	}
	return false
}
