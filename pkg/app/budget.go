package app

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"supervisor/pkg/protocol"
)

// Budget is how many connections this program may open to its database, everywhere, and how many that has. A database that has too few
// refuses whoever comes last, at the worst time: while a reload has two generations at work. So it is counted before.
type Budget struct {
	Pools     protocol.Pools // of the supervisor; empty: this process is alone
	Instances int            // supervisors that share the database: BACKEND_INSTANCES
	Size      int            // BACKEND_POOL_SIZE
	Overflow  int            // BACKEND_MAX_OVERFLOW
	Max       int            // max_connections; 0: not known
	Reserved  int            // of these, for superusers and such
}

const (
	// outsiders are the others who must get in: app migrate (two), somebody with psql, a metrics exporter.
	outsiders = 4
	// usuallyReserved is PostgreSQL's superuser_reserved_connections unless somebody sets it.
	usuallyReserved = 3
)

// processes gives how many have a pool of connections, at the worst moment, and says it in words. A pool that is never replaced is a store,
// such as the in-memory Redis, and needs no database.
func (b Budget) processes() (n int, words string) {
	var parts []string
	for _, p := range b.Pools {
		if p.Surge > 0 {
			n += p.Workers + p.Surge
			parts = append(parts, fmt.Sprintf("%s %d + %d while it is replaced", p.Name, p.Workers, p.Surge))
		}
	}
	if n == 0 {
		return 1, "1 process"
	}
	return n, fmt.Sprintf("%d processes (%s)", n, strings.Join(parts, ", "))
}

func (b Budget) each() int { return b.Size + b.Overflow }

// Need is how many connections there may be at once.
func (b Budget) Need() int {
	n, _ := b.processes()
	return b.Instances*n*b.each() + outsiders
}

// Have is how many the database gives, 0 if that is not known.
func (b Budget) Have() int { return max(b.Max-b.Reserved, 0) }

// Fits reports whether all may be open at once, or nobody knows.
func (b Budget) Fits() bool { return b.Max == 0 || b.Need() <= b.Have() }

// String is the arithmetic.
func (b Budget) String() string {
	_, processes := b.processes()
	instances := ""
	if b.Instances != 1 {
		instances = fmt.Sprintf("%d instances (BACKEND_INSTANCES) × ", b.Instances)
	}
	need := fmt.Sprintf("need %d = %s%s × %d (BACKEND_POOL_SIZE %d + BACKEND_MAX_OVERFLOW %d) + %d for migrations and people",
		b.Need(), instances, processes, b.each(), b.Size, b.Overflow, outsiders)
	if b.Max == 0 {
		return need
	}
	return fmt.Sprintf("%s; have %d = max_connections %d − %d reserved", need, b.Have(), b.Max, b.Reserved)
}

// advice says what would fit.
func (b Budget) advice() string {
	n, _ := b.processes()
	parts := []string{fmt.Sprintf("max_connections of at least %d", b.Need()+b.Reserved)}
	if each := (b.Have() - outsiders) / (b.Instances * n); each > 0 {
		parts = append(parts, fmt.Sprintf("BACKEND_POOL_SIZE + BACKEND_MAX_OVERFLOW of at most %d", each))
	}
	return strings.Join(append(parts, "fewer workers, or a PgBouncer in front of it"), ", ")
}

// check is the error of a budget that does not fit.
func (b Budget) check() error {
	if b.Fits() {
		return nil
	}
	return fmt.Errorf("the database may run out of connections: %s. What would do: %s", b, b.advice())
}

// ask looks what the server really gives.
func (b Budget) ask(ctx context.Context, pool *pgxpool.Pool) (Budget, error) {
	// reserved_connections is there since PostgreSQL 16.
	err := pool.QueryRow(ctx, `select current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int
		+ coalesce(current_setting('reserved_connections', true), '0')::int`).Scan(&b.Max, &b.Reserved)
	return b, err
}
