package app

import (
	"context"
	"errors"

	"github.com/redis/rueidis"
)

// errKeyTaken says that a client's key stands for another job.
var errKeyTaken = errors.New("the key is another job's")

// clientKeys remembers what the Idempotency-Keys of clients stand for: in Redis, as the jobs do.
//
//	app:key:{<queue>.<key>}  STRING  a digest of the job's name and arguments
type clientKeys struct{ connection }

// claim notes what a client's key stands for. errKeyTaken: for something else.
func (k clientKeys) claim(ctx context.Context, key, meaning string) error {
	key = "app:key:{" + key + "}"
	noted := meaning
	err := k.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		err := redis.Do(ctx, redis.B().Set().Key(key).Value(meaning).Nx().Px(recordTTL).Build()).Error()
		if rueidis.IsRedisNil(err) { // it was there, perhaps by this call, sent twice
			noted, err = redis.Do(ctx, redis.B().Get().Key(key).Build()).ToString()
		}
		return err
	})
	switch {
	case errors.Is(err, errNotStored): // its time ended in between
		return nil
	case err == nil && noted != meaning:
		return errKeyTaken
	}
	return err
}
