package tasks

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
	"go.uber.org/zap"

	"supervisor/internal/lazyredis"
)

// Options of a connection. The zero value is good for one Redis server.
type Options struct {
	Namespace string // first part of every key; "tasks"
	// Shards of a queue: 1. More spread one queue over the nodes of a cluster. All clients of a queue must agree: a key's shard
	// is its hash modulo this.
	Shards int
	// Discover asks the server whether it is a cluster, and then speaks to each node. Set by itself when the URL names several
	// addresses without a master_set.
	Discover bool
	// MaxPending bounds how many jobs of one shard may wait; more get ErrQueueFull. 0: no limit.
	MaxPending int
	// CallTimeout bounds one round trip, 3 s: an answer later than that comes from a server that hangs.
	CallTimeout time.Duration
	// Patience is how long an enqueue tries again when Redis did not answer, 1 s: a restart of a connection should not be
	// seen by a user, an outage should.
	Patience time.Duration
	Log      *zap.Logger // nil: silent
}

func (o Options) withDefaults() Options {
	if o.Namespace == "" {
		o.Namespace = "tasks"
	}
	if o.Shards == 0 {
		o.Shards = 1
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = 3 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = time.Second
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return o
}

// Connect prepares a client for the Redis at address: redis://, rediss:// or unix://, as rueidis.ParseURL reads them. It does not wait
// for the server: one that is away is an ErrUnavailable of the calls, until it is back.
func Connect(address string, options Options) (*Client, error) {
	options = options.withDefaults()
	if !wordOf(options.Namespace, "_-.") || len(options.Namespace) > maxQueue {
		return nil, fmt.Errorf("namespace %q: letters, digits, '_', '-' and '.' only", options.Namespace)
	}
	if options.Shards < 1 || options.Shards > 1024 {
		return nil, fmt.Errorf("%d shards: between 1 and 1024", options.Shards)
	}
	settings, err := lazyredis.Parse(address)
	if err != nil {
		var whole *url.Error
		if errors.As(err, &whole) {
			err = whole.Err // the URL may hold a password: it is not repeated
		}
		return nil, fmt.Errorf("redis url: %w", err)
	}
	settings.ForceSingleClient = !options.Discover && len(settings.InitAddress) == 1
	if settings.Dialer.Timeout == 0 {
		settings.Dialer.Timeout = options.CallTimeout
	}
	settings.DialCtxFn = dialAndHear(settings)
	settings.PipelineMultiplex = 1 // two connections: a large result does not hold up a heartbeat
	if settings.ClientName == "" {
		settings.ClientName = "tasks"
	}

	// Each call that waits on the server has a connection of its own, for as long as it waits. They carry a few bytes.
	waiting := settings
	waiting.ReadBufferEachConn, waiting.WriteBufferEachConn = 1<<10, 1<<10
	waiting.PipelineMultiplex = -1
	waiting.BlockingPoolSize = 4096
	waiting.BlockingPoolCleanup = time.Minute

	// A lone enqueue has a connection to itself, and its goroutine does the writing and reading: a pipeline's two goroutines would be half
	// of its time.
	sending := settings
	sending.DisableAutoPipelining = true
	sending.BlockingPoolSize = 64 // one per lane at most is in use
	sending.BlockingPoolCleanup = time.Minute

	return &Client{
		options: options,
		oneSlot: settings.ForceSingleClient || settings.Sentinel.MasterSet != "",
		calls:   link{lazyredis.New(settings)},
		waits:   link{lazyredis.New(waiting)},
		sends:   link{lazyredis.New(sending)},
		lines:   make(map[string]*line),
	}, nil
}

// link is a connection that may not be there yet.
type link struct{ *lazyredis.Link }

// get returns the connection, or why there is none.
func (l link) get(ctx context.Context) (rueidis.Client, error) {
	conn, err := l.Get(ctx)
	if err == nil {
		return conn, nil
	}
	if errors.Is(err, lazyredis.ErrClosed) {
		return nil, ErrClosed
	}
	var failed *lazyredis.DialError
	if !errors.As(err, &failed) {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	if err := redisError(ctx, failed.Err); errors.Is(err, ErrUnavailable) {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, failed.Err)
}

// Ping reports whether Redis answers.
func (c *Client) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	conn, err := c.calls.get(ctx)
	if err != nil {
		return err
	}
	return redisError(ctx, conn.Do(ctx, conn.B().Ping().Build()).Error())
}

// Check looks at the server's settings at the start of a program. An error means that it cannot be used; each warning is one
// sentence about how it may lose jobs, to be logged loudly.
func (c *Client) Check(ctx context.Context) (warnings []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	conn, err := c.calls.get(ctx)
	if err != nil {
		return nil, err
	}
	facts := make(map[string]string)
	for _, section := range []string{"server", "memory", "persistence"} {
		text, err := conn.Do(ctx, conn.B().Info().Section(section).Build()).ToString()
		if _, answered := rueidis.IsRedisErr(err); err != nil && !answered {
			return nil, redisError(ctx, err)
		}
		for _, l := range strings.Split(text, "\r\n") {
			if key, value, ok := strings.Cut(l, ":"); ok {
				facts[key] = value
			}
		}
	}
	version, known := facts["redis_version"]
	switch {
	case !known:
		warnings = append(warnings, "the server does not tell its version and settings (a stand-in, or INFO is forbidden): they were not checked")
	case older(version, 6, 2):
		return nil, fmt.Errorf("redis %s is too old: LPOP with a count needs 6.2", version)
	}
	if policy, ok := facts["maxmemory_policy"]; ok && policy != "noeviction" {
		warnings = append(warnings, fmt.Sprintf("maxmemory-policy is %s: a full Redis deletes jobs, results or leases; set noeviction", policy))
	}
	if facts["aof_enabled"] == "0" {
		warnings = append(warnings, "appendonly is off: a crash of Redis loses every job since its last snapshot; set appendonly yes")
	}
	if facts["loading"] == "1" {
		return warnings, fmt.Errorf("%w: it still loads its file", ErrUnavailable)
	}
	return warnings, nil
}

func older(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(parts[1])
	return errA == nil && errB == nil && (a < major || a == major && b < minor)
}
