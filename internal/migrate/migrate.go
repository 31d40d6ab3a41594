// Package migrate brings the tables of a part of the program to the version that it was built with.
//
// The work is goose's: of the kept libraries it is the lightest that takes a pgx pool, an embed.FS and an advisory lock (tern brings a
// template library with ten others, golang-migrate leaves a database that it marks "dirty" to be repaired by hand). Here is only how we use it.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Set is the migrations of one part: files NNNNN_name.sql with a section `-- +goose Up`. Each runs in a transaction. There is no way down:
// a program and the one before it must both work with the tables while a deployment is under way, so that the way back is the old program.
type Set struct {
	Name  string // of the part
	Table string // remembers what was applied
	Files fs.FS
}

// Step is one migration.
type Step struct {
	Set     string
	File    string
	Applied time.Time     // zero: not yet
	Took    time.Duration // by Up
}

// lockPatience is how long one who migrates waits for another who does.
const lockPatience = 5 * time.Minute

func (s Set) provider(pool *pgxpool.Pool) (*goose.Provider, func(), error) {
	// Session-level, so that it ends with the connection of one who is killed.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, uint64(lockPatience/time.Second)))
	if err != nil {
		return nil, nil, err
	}
	db := stdlib.OpenDBFromPool(pool)
	p, err := goose.NewProvider(goose.DialectPostgres, db, s.Files, goose.WithSessionLocker(locker), goose.WithTableName(s.Table),
		goose.WithDisableGlobalRegistry(true))
	if err != nil {
		_ = db.Close()
		return nil, nil, fmt.Errorf("migrations of %s: %w", s.Name, err)
	}
	return p, func() { _ = db.Close() }, nil
}

// Up applies what is missing and returns it. Several may do so at once: one works, the others wait and then find nothing to do. Of a
// migration that fails nothing stays, those before it do.
func (s Set) Up(ctx context.Context, pool *pgxpool.Pool) ([]Step, error) {
	p, done, err := s.provider(pool)
	if err != nil {
		return nil, err
	}
	defer done()
	results, err := p.Up(ctx)
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		results = partial.Applied
		err = fmt.Errorf("migration %s of %s: %w", path.Base(partial.Failed.Source.Path), s.Name, plain(partial.Err))
	} else if err != nil {
		err = fmt.Errorf("migrate %s: %w", s.Name, plain(err))
	}
	steps := make([]Step, 0, len(results))
	for _, r := range results {
		steps = append(steps, Step{Set: s.Name, File: path.Base(r.Source.Path), Applied: time.Now(), Took: r.Duration})
	}
	return steps, err
}

// Status tells what was applied when, without changing anything but making the table that remembers it.
func (s Set) Status(ctx context.Context, pool *pgxpool.Pool) ([]Step, error) {
	p, done, err := s.provider(pool)
	if err != nil {
		return nil, err
	}
	defer done()
	found, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrations of %s: %w", s.Name, plain(err))
	}
	steps := make([]Step, 0, len(found))
	for _, m := range found {
		steps = append(steps, Step{Set: s.Name, File: path.Base(m.Source.Path), Applied: m.AppliedAt})
	}
	return steps, nil
}

// plain takes what the server said out of what was said about it: the library repeats the whole statement.
func plain(err error) error {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return said
	}
	return err
}
