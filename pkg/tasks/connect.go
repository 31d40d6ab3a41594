package tasks

import (
	"context"
	"errors"
	"fmt"
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
	// MaxPending bounds how many jobs of one shard may wait; more get ErrQueueFull. 0: no limit.
	MaxPending int
	// CallTimeout bounds one round trip, 3 s: an answer later than that comes from a server that hangs.
	CallTimeout time.Duration
	// Patience is how long an enqueue tries again when Redis did not answer, and any other call when its connection had broken, 1 s: a
	// restart of a connection should not be seen by a user, an outage should.
	Patience time.Duration
	// Results keeps results instead of the jobs' own records: a RedisResults, a Postgres. Nil: they stay with the jobs.
	Results ResultBackend
	// Postgres, if there is one: an archive of ended jobs, and what EnqueueTx needs of runners. Producers and runners should all have it.
	Postgres *Postgres
	// Enqueued, if there is one, is told of each job that was stored, also of those that runners enqueue for others (Then, schedules, outboxes).
	// Several goroutines call it, and it must be quick.
	Enqueued func(queue, name string)
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

// Connect prepares a client for the Redis at address:
//
//	redis://[user:password@]host[:6379][/database]   one server, or a node of a cluster: which of both it asks
//	redis://host:port?addr=host:port&addr=…          nodes of a cluster, of which one must answer at the start
//	redis://host:26379?addr=…&master_set=NAME        Sentinels
//	rediss://…?ca=FILE&cert=FILE&key=FILE            any of them with TLS
//	unix:///path?db=N                                a socket
//
// lazyredis.Parse has the rest. It does not wait for the server: one that is away is an ErrUnavailable of the calls, until it is back.
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
		return nil, fmt.Errorf("redis url: %w", err)
	}
	if settings.Dialer.Timeout == 0 {
		settings.Dialer.Timeout = options.CallTimeout
	}
	settings.Sentinel.Dialer.Timeout = settings.Dialer.Timeout
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

	// A lone enqueue has a connection to itself, and so has a runner's exchange; its goroutine does the writing and reading: a pipeline's two
	// goroutines would be half of its time.
	sending := settings
	sending.DisableAutoPipelining = true
	sending.BlockingPoolSize = 1024 // one per lane and runner at most is in use, and one per lane for producers
	sending.BlockingPoolCleanup = time.Minute

	var keepers []ResultBackend
	if options.Results != nil {
		keepers = append(keepers, options.Results)
	}
	if options.Postgres.archives() && options.Results != ResultBackend(options.Postgres) {
		keepers = append(keepers, options.Postgres)
	}
	return &Client{
		keepers: keepers,
		options: options,
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

// Ping reports whether Redis answers; of a cluster, whether the node does that knows the queues. (A command without a key goes to any
// node, also to one that is dead and replaced.)
func (c *Client) Ping(ctx context.Context) error {
	return c.do(ctx, func(ctx context.Context, conn rueidis.Client) error {
		return conn.Do(ctx, conn.B().Exists().Key(queuesKey(c.options.Namespace)).Build()).Error()
	})
}

// do makes calls within one CallTimeout. Their error is what Redis said, or why it did not.
func (c *Client) do(ctx context.Context, calls func(context.Context, rueidis.Client) error) error {
	return c.doBy(ctx, c.calls, calls)
}

func (c *Client) doBy(ctx context.Context, by link, calls func(context.Context, rueidis.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	conn, err := by.get(ctx)
	if err != nil {
		return err
	}
	return redisError(ctx, calls(ctx, conn))
}

// awayPatience is for a Redis that cannot be reached or refuses now: who asks hears of an outage at once.
const awayPatience = 60 * time.Millisecond

// ask makes calls that may be made twice, and makes them again when a connection broke while nobody used it: after a restart of Redis there
// are several.
func (c *Client) ask(ctx context.Context, calls func(context.Context, rueidis.Client) error) error {
	patience := lazyredis.Patience{Broken: c.options.Patience, Away: min(awayPatience, c.options.Patience)}
	unavailable := func(err error) bool { return errors.Is(err, ErrUnavailable) }
	return patience.Again(ctx, unavailable, func() error { return c.do(ctx, calls) })
}
