package tasks

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Once makes an effect in Postgres happen once, however often its job runs: it reports whether this is the first time, and remembers that in
// tx, with the effect itself.
//
//	first, err := tasks.Once(ctx, tx, job, "charge")
//	if err != nil || !first {
//		return err // rolled back, or made before
//	}
//	… make the effect in tx, commit …
//
// Two runs at the same time (one of them has lost its job and does not know it) wait for each other here. It is remembered for 60 days.
func Once(ctx context.Context, tx pgx.Tx, job *Job, effect string) (first bool, err error) {
	if effect == "" || len(effect) > maxName || storable(effect) != effect {
		return false, fmt.Errorf("effect %.100q: want a text of at most %d bytes", effect, maxName)
	}
	if job == nil || job.ID == "" {
		return false, errors.New("once: there is no job")
	}
	tag, err := tx.Exec(ctx, `insert into tasks_inbox (namespace, id, effect) values ($1, $2, $3) on conflict do nothing`, job.namespace, job.ID, effect)
	if err != nil {
		return false, fmt.Errorf("once: %w", fault(err))
	}
	return tag.RowsAffected() == 1, nil
}
