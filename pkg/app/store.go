package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"supervisor/pkg/tasks"
)

// How long the store keeps things. Nothing is written without one of these.
const (
	// uploadTTL must outlast the longest wait: a queue that stood still over a night, and all attempts. Whoever ends a job deletes
	// its upload; this is for what nobody ends.
	uploadTTL = 24 * time.Hour
	resultTTL = time.Hour
	// recordTTL is how long a job is known after its end: longer than its result, so that there is somebody to say that it expired.
	recordTTL = 24 * time.Hour

	storeTimeout = 5 * time.Second // of one operation; 10 MiB at 16 Mbit/s
)

// errNotStored says that nothing lies under a key, or not any more.
var errNotStored = errors.New("not in the store")

// store keeps uploads and results where web workers and runners of all machines find them: in Redis, under a key with a TTL. Its
// methods are what another place for them would have to offer.
type store struct {
	redis rueidis.Client
}

// openStore does not wait for a server that is away: calls fail until it is back.
func openStore(url string) (*store, error) {
	options, err := redisOptions(url)
	if err != nil {
		return nil, err
	}
	client, err := rueidis.NewClient(options)
	if client == nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return &store{client}, nil
}

// redisOptions reads the URL of a single Redis. Its errors do not repeat it: it may hold a password.
func redisOptions(url string) (rueidis.ClientOption, error) {
	base, query, hasQuery := strings.Cut(url, "?")
	base = strings.TrimSuffix(base, "/") // redis://host/ is how many write redis://host
	if hasQuery {
		base += "?" + query
	}
	options, err := rueidis.ParseURL(base)
	if err != nil || options.InitAddress[0] == "" {
		return options, errors.New("want redis://[user:password@]host[:port][/db], rediss://… or unix:/path; in a password write % / ? # : @ as %25 %2F %3F %23 %3A %40")
	}
	options.DisableCache = true // nothing is read twice
	options.DisableRetry = true // it would retry until the context ends; see try
	options.ForceSingleClient = len(options.InitAddress) == 1
	options.Dialer.Timeout = time.Second
	options.ReadBufferEachConn, options.WriteBufferEachConn = 64<<10, 64<<10
	options.RingScaleEachConn = 8
	options.PipelineMultiplex = 2 // four connections: an upload of megabytes does not hold up the next
	options.ClientName = "app"
	return options, nil
}

func uploadKey(key string) string { return "app:upload:" + key }
func resultKey(key string) string { return "app:result:" + key }

// saveUpload copies image: the library may still send it when the request is over.
func (s *store) saveUpload(ctx context.Context, key string, image []byte) error {
	return s.set(ctx, uploadKey(key), string(image), uploadTTL)
}

func (s *store) upload(ctx context.Context, key string) ([]byte, error) {
	return s.get(ctx, uploadKey(key))
}

// dropUpload deletes what nobody needs any more. It may fail: the TTL does the same later.
func (s *store) dropUpload(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.redis.Do(ctx, s.redis.B().Unlink().Key(uploadKey(key)).Build())
}

// A result is one line that says what it is, then the bytes: one key, so that it is there as a whole or not at all.
func (s *store) saveResult(ctx context.Context, key string, made *madeThumbnail) error {
	head := fmt.Sprintf("%s %d %d\n", made.contentType, made.width, made.height)
	return s.set(ctx, resultKey(key), head+string(made.body), resultTTL)
}

func (s *store) result(ctx context.Context, key string) (*madeThumbnail, error) {
	value, err := s.get(ctx, resultKey(key))
	if err != nil {
		return nil, err
	}
	head, body, _ := strings.Cut(rueidis.BinaryString(value), "\n")
	made := &madeThumbnail{body: value[len(value)-len(body):]}
	if _, err := fmt.Sscanf(head, "%s %d %d", &made.contentType, &made.width, &made.height); err != nil {
		return nil, fmt.Errorf("store: %s holds no result: %w", resultKey(key), err)
	}
	return made, nil
}

func (s *store) set(ctx context.Context, key, value string, ttl time.Duration) error {
	return s.try(ctx, func(ctx context.Context) error {
		return s.redis.Do(ctx, s.redis.B().Set().Key(key).Value(value).Px(ttl).Build()).Error()
	})
}

func (s *store) get(ctx context.Context, key string) (value []byte, err error) {
	err = s.try(ctx, func(ctx context.Context) error {
		value, err = s.redis.Do(ctx, s.redis.B().Get().Key(key).Build()).AsBytes()
		return err
	})
	return value, err
}

// again repeats a call that may be made twice while retry says so. A connection that broke while nobody used it fails the first call, and
// until the library has noticed the second too; then it dials. A server that is away costs 60 ms more, one that hangs nothing.
func again(ctx context.Context, retry func(error) bool, call func() error) error {
	start := time.Now()
	err := call()
	for _, pause := range []time.Duration{10 * time.Millisecond, 50 * time.Millisecond} {
		if err == nil || !retry(err) || ctx.Err() != nil || time.Since(start) > 500*time.Millisecond {
			break
		}
		time.Sleep(pause)
		err = call()
	}
	return err
}

// try makes a call that may be made twice, and gives its error a name that callers know.
func (s *store) try(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := again(ctx, func(err error) bool { return !answered(err) }, func() error { return do(ctx) })
	var refusal *rueidis.RedisError
	switch {
	case err == nil:
		return nil
	case rueidis.IsRedisNil(err):
		return errNotStored
	case errors.As(err, &refusal) && strings.HasPrefix(refusal.Error(), "OOM "):
		return fmt.Errorf("store: %w: %w", tasks.ErrFull, err)
	}
	return fmt.Errorf("store: %w: %w", tasks.ErrUnavailable, err)
}

// answered reports whether an error is what the server said.
func answered(err error) bool {
	var refusal *rueidis.RedisError
	return errors.As(err, &refusal)
}

func (s *store) close() { s.redis.Close() }
