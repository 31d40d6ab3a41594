package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// The archive's columns, in the order in which all statements here have them.
const archiveColumns = `id, name, queue, state, priority, attempt, max, crashes, postponed, enqueued, started, finished, error, result`

// A later run wins: a runner that lost a job and does not know it yet began before the one that has it now. What Redis itself says of a job
// that has ended ($16) wins over all; only a result that its record does without, because a ResultBackend has it, stays here.
const saveArchive = `insert into tasks_archive (namespace, ` + archiveColumns + `)
	select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::int[], $8::int[], $9::int[], $10::int[],
		$11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::text[], $15::bytea[])
	on conflict (namespace, id) do update set name = excluded.name, queue = excluded.queue, state = excluded.state, priority = excluded.priority,
		attempt = excluded.attempt, max = excluded.max, crashes = excluded.crashes, postponed = excluded.postponed, enqueued = excluded.enqueued,
		started = excluded.started, finished = excluded.finished, error = excluded.error, stored = excluded.stored,
		result = case when $16 and excluded.result is null and (tasks_archive.state, tasks_archive.started) = (excluded.state, excluded.started)
			then tasks_archive.result else excluded.result end
	where $16 or coalesce(tasks_archive.started, '-infinity') <= coalesce(excluded.started, '-infinity')`

// Save archives ends of jobs: one statement for all of them.
func (p *Postgres) Save(ctx context.Context, namespace string, ends []Ended) error {
	return p.save(ctx, namespace, ends, false)
}

func (p *Postgres) save(ctx context.Context, namespace string, ends []Ended, certain bool) error {
	ends = lastOfEach(ends) // one statement cannot write a row twice
	n := len(ends)
	ids, names, queues, states, failures := make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	priorities, attempts, limits, crashes, postponed := make([]int16, n), make([]int32, n), make([]int32, n), make([]int32, n), make([]int32, n)
	enqueued, started, finished, results := make([]*time.Time, n), make([]*time.Time, n), make([]*time.Time, n), make([][]byte, n)
	for i, e := range ends {
		s := e.Status
		ids[i], names[i], queues[i], states[i], failures[i] = s.ID, storable(s.Name), s.Queue, string(s.State), storable(s.Error)
		priorities[i], attempts[i], limits[i] = int16(s.Priority), int32(s.Attempt), int32(s.Max)
		crashes[i], postponed[i], results[i] = int32(s.Crashes), int32(s.Postponed), e.Result
		enqueued[i], started[i], finished[i] = known(s.Enqueued), known(s.Started), known(s.Finished)
	}
	_, err := p.pool.Exec(ctx, saveArchive, namespace, ids, names, queues, states, priorities, attempts, limits, crashes, postponed,
		enqueued, started, finished, failures, results, certain)
	return fault(err)
}

// Load gives what became of a job.
func (p *Postgres) Load(ctx context.Context, namespace, id string) (Ended, error) {
	var (
		e                           Ended
		s                           = &e.Status
		state                       string
		enqueued, started, finished *time.Time
	)
	err := p.pool.QueryRow(ctx, `select `+archiveColumns+` from tasks_archive where namespace = $1 and id = $2`, namespace, id).Scan(
		&s.ID, &s.Name, &s.Queue, &state, &s.Priority, &s.Attempt, &s.Max, &s.Crashes, &s.Postponed, &enqueued, &started, &finished, &s.Error, &e.Result)
	if errors.Is(err, pgx.ErrNoRows) {
		return Ended{}, fmt.Errorf("job %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Ended{}, fault(err)
	}
	s.State = State(state)
	for to, from := range map[*time.Time]*time.Time{&s.Enqueued: enqueued, &s.Started: started, &s.Finished: finished} {
		if from != nil {
			*to = *from
		}
	}
	return e, nil
}

// lastOfEach leaves of several ends of one job the one of the run that began last.
func lastOfEach(ends []Ended) []Ended {
	at := make(map[string]int, len(ends))
	kept := make([]Ended, 0, len(ends))
	for _, e := range ends {
		i, seen := at[e.Status.ID]
		switch {
		case !seen:
			at[e.Status.ID] = len(kept)
			kept = append(kept, e)
		case !e.Status.Started.Before(kept[i].Status.Started):
			kept[i] = e
		}
	}
	return kept
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// storable makes a text that Postgres takes: one that it refused would hold up its whole batch for ever.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
}
