package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"supervisor/internal/lazyredis"
	"supervisor/pkg/tasks"
)

// redisOptions reads the URL of a Redis. Its errors do not repeat it: it may hold a password.
func redisOptions(url string) (rueidis.ClientOption, error) {
	options, err := lazyredis.Parse(url)
	if err != nil {
		return options, err
	}
	options.Dialer.Timeout, options.Sentinel.Dialer.Timeout = time.Second, time.Second
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

// storePatience is that of tasks.Client.
var storePatience = lazyredis.Patience{Broken: time.Second, Away: 60 * time.Millisecond}

// try makes a call that may be made twice, and gives its error a name that callers know. nil of Redis is errNotStored.
func (c connection) try(ctx context.Context, do func(context.Context, rueidis.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := storePatience.Again(ctx, func(err error) bool { return !lazyredis.Answered(err) }, func() error {
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
	case lazyredis.Answered(err) && strings.Contains(err.Error(), "OOM command not allowed"):
		return fmt.Errorf("store: %w: %w", tasks.ErrFull, err)
	case lazyredis.Answered(err) && tasks.Refusal(err) == "":
		return fmt.Errorf("store: %w", err) // a bug of ours, or not our data
	}
	return fmt.Errorf("store: %w: %w", tasks.ErrUnavailable, err)
}

// lasting are the answers of a Redis that will go on to refuse us until somebody changes a setting. (The library leaves out ERR.)
var lasting = []string{"WRONGPASS", "NOAUTH", "NOPERM", "invalid password", "invalid DB", "DB index", "AUTH", "Client sent AUTH",
	"SELECT is not allowed", "This instance has cluster support disabled", "No such master"}

// IsRefusal reports whether there is a Redis or a Postgres that will be no use to us until somebody changes a setting: a wrong password, a database
// that is not there, a version that is too old, a certificate that nobody knows, missing tables.
func IsRefusal(err error) bool {
	if err == nil {
		return false
	}
	var database *databaseError
	if errors.As(err, &database) {
		return database.advice != ""
	}
	var said *rueidis.RedisError
	var stranger *tls.CertificateVerificationError
	switch {
	case errors.Is(err, lazyredis.ErrSentinel), errors.As(err, &stranger):
		return true
	case !errors.As(err, &said):
		return !errors.Is(err, tasks.ErrUnavailable)
	}
	for _, prefix := range lasting {
		if strings.HasPrefix(strings.TrimPrefix(said.Error(), "ERR "), prefix) {
			return true
		}
	}
	return false
}
