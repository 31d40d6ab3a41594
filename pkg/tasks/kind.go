package tasks

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Kind names a handler together with its argument, for producers and runners alike:
//
//	var Thumbnail = tasks.Kind[ThumbnailArgs]("thumbnail")
//	Thumbnail.Handle(mux, func(ctx context.Context, args ThumbnailArgs) ([]byte, error) { … })
//	id, err := Thumbnail.Enqueue(ctx, client, ThumbnailArgs{…})
//
// The argument travels as JSON.
type Kind[T any] string

// Task returns the job for EnqueueBatch.
func (k Kind[T]) Task(args T, options ...Option) (Task, error) {
	payload, err := json.Marshal(args)
	if err != nil {
		return Task{}, fmt.Errorf("arguments of %s: %w: %w", k, ErrInvalid, err)
	}
	return Task{Name: string(k), Payload: payload, Options: options}, nil
}

// Enqueue stores a job of this kind.
func (k Kind[T]) Enqueue(ctx context.Context, c *Client, args T, options ...Option) (string, error) {
	t, err := k.Task(args, options...)
	if err != nil {
		return "", err
	}
	return c.Enqueue(ctx, t.Name, t.Payload, t.Options...)
}

// EnqueueTx stores a job of this kind in a transaction: Client.EnqueueTx.
func (k Kind[T]) EnqueueTx(ctx context.Context, c *Client, tx pgx.Tx, args T, options ...Option) (string, error) {
	t, err := k.Task(args, options...)
	if err != nil {
		return "", err
	}
	return c.EnqueueTx(ctx, tx, t.Name, t.Payload, t.Options...)
}

// Handle registers the handler. Arguments that cannot be read make the job dead at once.
func (k Kind[T]) Handle(m *Mux, handle func(ctx context.Context, args T) (result []byte, err error)) {
	m.Handle(string(k), func(ctx context.Context, job *Job) ([]byte, error) {
		var args T
		if err := json.Unmarshal(job.Payload, &args); err != nil {
			return nil, fmt.Errorf("arguments of %s: %w: %w", job.Name, ErrSkipRetry, err)
		}
		return handle(ctx, args)
	})
}
