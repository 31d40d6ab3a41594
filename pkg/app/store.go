package app

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// store keeps uploads and results where web workers and runners of all machines find them, by the id of their job: in PostgreSQL
// (postgresStore) when there is a DATABASE_URL, else in Redis (redisStore). Its errors are errNotStored, errUploadsFull, tasks.ErrFull and
// tasks.ErrUnavailable; any other is a bug of ours.
type store interface {
	// saveUpload asks for room first: nobody sends 10 MiB to be refused. When it fails nothing is left.
	saveUpload(ctx context.Context, id string, upload []byte) error
	upload(ctx context.Context, id string) ([]byte, error)
	// dropUpload deletes what nobody needs any more, also when ctx has ended. It may fail: its time does the same later.
	dropUpload(ctx context.Context, id string)
	// failUpload keeps the upload of a job that is dead, for its retry, until its time or until somebody wants its room: the oldest goes first.
	// It may fail: then the upload takes its room for as long as one that waits.
	failUpload(ctx context.Context, id string)
	// reviveUpload takes that back: the job waits again. It is no error that there is no upload any more; the job's next run will say so.
	reviveUpload(ctx context.Context, id string) error
	// saveResult puts a result in the place of its upload, if it had one.
	saveResult(ctx context.Context, id string, made *product) error
	result(ctx context.Context, id string) (*product, error)
	// ping reports whether the store answers, and can be used.
	ping(ctx context.Context) error
}

// How long the store keeps things. Nothing is written without one of these.
const (
	// uploadTTL must outlast the longest wait: a queue that stood still over a night, and all attempts. Whoever ends a job deletes
	// its upload; this is for dead jobs, and for what nobody ends, a job that killed all its runners for instance.
	uploadTTL = 24 * time.Hour
	resultTTL = time.Hour
	// recordTTL is how long a job is known after its end: longer than its result, so that there is somebody to say that it expired.
	recordTTL = 24 * time.Hour

	storeTimeout = 5 * time.Second // of one operation; 10 MiB at 16 Mbit/s
)

var (
	// errNotStored says that nothing lies under a key, or not any more.
	errNotStored = errors.New("not in the store")
	// errUploadsFull says that the uploads that wait already are as many bytes as may.
	errUploadsFull = errors.New("too many bytes of uploads wait")
)

// hours writes a whole number of them for people.
func hours(d time.Duration) string { return fmt.Sprintf("%gh", d.Hours()) }
