package migrate

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5/pgxpool"

	"supervisor/internal/pgtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	pgtest.End()
	os.Exit(code)
}

func connect(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return open(t, pgtest.Database(t))
}

func open(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func set(files ...string) Set {
	s := Set{Name: "things", Table: "things_migrations", Files: fstest.MapFS{}}
	for i, sql := range files {
		s.Files.(fstest.MapFS)[fmt.Sprintf("%05d_step.sql", i+1)] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + sql)}
	}
	return s
}

func TestUpIsIdempotentAndStatusTells(t *testing.T) {
	pool := connect(t)
	s := set("create table a (x int);", "create table b (x int);")
	before, err := s.Status(t.Context(), pool)
	if err != nil || len(before) != 2 || !before[0].Applied.IsZero() || before[1].File != "00002_step.sql" {
		t.Fatalf("status before: %+v, %v", before, err)
	}
	steps, err := s.Up(t.Context(), pool)
	if err != nil || len(steps) != 2 {
		t.Fatalf("first: %+v, %v", steps, err)
	}
	if steps, err = s.Up(t.Context(), pool); err != nil || len(steps) != 0 {
		t.Fatalf("second: %+v, %v", steps, err)
	}
	after, err := s.Status(t.Context(), pool)
	if err != nil || len(after) != 2 || after[0].Applied.IsZero() || after[1].Applied.IsZero() {
		t.Fatalf("status after: %+v, %v", after, err)
	}
}

// Each has a pool of its own, as processes have. A second `create table` would fail.
func TestManyAtOnce(t *testing.T) {
	url := pgtest.Database(t)
	s := set("create table a (x int); select pg_sleep(0.3);", "create table b (x int);")
	var wg sync.WaitGroup
	applied := make([]int, 4)
	for i := range applied {
		wg.Go(func() {
			steps, err := s.Up(t.Context(), open(t, url))
			if err != nil {
				t.Errorf("migrator %d: %v", i, err)
			}
			applied[i] = len(steps)
		})
	}
	wg.Wait()
	total := 0
	for _, n := range applied {
		total += n
	}
	if total != 2 {
		t.Errorf("applied %v: want 2 in all", applied)
	}
}

func TestAFailureNamesItsFileAndLeavesNothing(t *testing.T) {
	pool := connect(t)
	good := "create table a (x int);"
	steps, err := set(good, "create table b (x int); create table a (x int);").Up(t.Context(), pool)
	if err == nil || len(steps) != 1 {
		t.Fatalf("%+v, %v", steps, err)
	}
	for _, want := range []string{"00002_step.sql", "things", `relation "a" already exists`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	// Repaired it goes on where it stood.
	if steps, err = set(good, "create table b (x int);").Up(t.Context(), pool); err != nil || len(steps) != 1 {
		t.Fatalf("repaired: %+v, %v", steps, err)
	}
}
