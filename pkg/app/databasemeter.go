package app

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"supervisor/pkg/scoreboard"
)

// databaseMeter puts the pool of DATABASE_URL on the scoreboard:
//
//	db_pool_connections{state="in_use|idle|constructing"}, db_pool_max_connections, db_server_max_connections
//	db_pool_acquire_duration_seconds, db_pool_acquire_timeouts_total
//
// It is the pool's tracer: pgx tells it of each wait for a connection. Until begin it counts nothing.
type databaseMeter struct {
	// Set once, by begin.
	acquired                         *durations
	timeouts                         scoreboard.Label
	inUse, idle, constructing, limit scoreboard.Label
	serverLimit                      func(n int)
}

// poolLook is how often the connections are counted.
const poolLook = 5 * time.Second

// begin names the series, and watches the pool until closed is.
func (m *databaseMeter) begin(label func(name string) scoreboard.Label, pool *pgxpool.Pool, closed <-chan struct{}) {
	if label == nil {
		return
	}
	m.timeouts = label("db_pool_acquire_timeouts_total")
	state := func(name string) scoreboard.Label {
		return label("db_pool_connections{state=" + strconv.Quote(name) + "}")
	}
	m.inUse, m.idle, m.constructing = state("in_use"), state("idle"), state("constructing")
	m.limit = label("db_pool_max_connections")
	m.serverLimit = func(n int) { label("db_server_max_connections").Set(int64(n)) }
	m.acquired = newDurations(label, "db_pool_acquire_duration_seconds")
	m.look(pool)
	go func() {
		tick := time.NewTicker(poolLook)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.look(pool)
			case <-closed:
				return
			}
		}
	}()
}

func (m *databaseMeter) look(pool *pgxpool.Pool) {
	stat := pool.Stat()
	m.inUse.Set(int64(stat.AcquiredConns()))
	m.idle.Set(int64(stat.IdleConns()))
	m.constructing.Set(int64(stat.ConstructingConns()))
	m.limit.Set(int64(stat.MaxConns()))
}

// server notes how many connections the server takes.
func (m *databaseMeter) server(n int) {
	if m.serverLimit != nil {
		m.serverLimit(n)
	}
}

type acquireKey struct{}

// TraceAcquireStart and TraceAcquireEnd are pgxpool.AcquireTracer.
func (m *databaseMeter) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	if m.acquired == nil {
		return ctx
	}
	return context.WithValue(ctx, acquireKey{}, time.Now())
}

func (m *databaseMeter) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, end pgxpool.TraceAcquireEndData) {
	began, ok := ctx.Value(acquireKey{}).(time.Time)
	if !ok {
		return
	}
	if errors.Is(end.Err, context.DeadlineExceeded) {
		m.timeouts.Add(1)
	}
	m.acquired.observe(time.Since(began))
}

// TraceQueryStart and TraceQueryEnd are there because pgx takes tracers of queries only.
func (m *databaseMeter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (m *databaseMeter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// durations is a histogram without labels, with the bounds of those of requests.
type durations struct {
	buckets [len(durationBounds) + 1]scoreboard.Label
	sum     scoreboard.Label
}

func newDurations(label func(name string) scoreboard.Label, name string) *durations {
	d := &durations{sum: label(name + "_sum")}
	for i := range d.buckets {
		d.buckets[i] = label(name + "_bucket{le=" + strconv.Quote(boundName(i)) + "}")
	}
	return d
}

func (d *durations) observe(took time.Duration) {
	d.buckets[bucketOf(took)].Add(1)
	d.sum.Add(max(took.Microseconds(), 0))
}
