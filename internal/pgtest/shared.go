package pgtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

var (
	// shared is the server that all tests of this binary share.
	shared    = sync.OnceValues(start)
	databases atomic.Int64
	ends      []func() // what End does. Written by template and start only
)

func start() (*Server, error) {
	s, err := New()
	if err == nil {
		ends = append(ends, s.Remove)
	}
	return s, err
}

// Database makes an empty database for one test, and gives its address. Whoever wants to stop the server needs RunT. Locks, notices and
// pg_stat_activity are seen by all of them: ask for datname = current_database().
func Database(t testing.TB) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(context.Background(), s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	name := fmt.Sprintf("test%d", databases.Add(1))
	if _, err := conn.Exec(context.Background(), "create database "+name); err != nil {
		t.Fatal(err)
	}
	return s.url(name)
}

// End deletes what tests shared. A package that uses Database or New calls it last, in its TestMain.
func End() {
	for _, end := range ends {
		end()
	}
}
