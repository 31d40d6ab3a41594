package app

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/valyala/fasthttp"

	"supervisor/pkg/tasks"
)

// A thumbnail as a job: postImage stores the upload and enqueues a few bytes that name it, a runner makes the thumbnail and stores it,
// the client fetches it by the job's id.

const (
	thumbnailTask     = "thumbnail"
	thumbnailTimeout  = 2 * time.Minute // of one attempt; the dearest image takes seconds
	thumbnailAttempts = 5
	// worthProgress is from how many pixels on a job tells how far it is: smaller ones are done before somebody asks.
	worthProgress = 2_000_000
)

// thumbnailArgs is all that the list entry holds. The upload lies in the store under the job's id.
type thumbnailArgs struct {
	Width  int `json:"width"`
	Height int `json:"height"`
	// InDatabase says where the upload lies, to runners whose configuration is older: Redis alone was the store then.
	InDatabase bool `json:"in_database,omitempty"`
}

func (t *Tasks) enqueueThumbnail(ctx context.Context, image []byte, want box) (id string, err error) {
	return t.enqueueUpload(ctx, thumbnailTask, thumbnailArgs{want.width, want.height, t.inDatabase()}, image, tasks.Timeout(thumbnailTimeout), tasks.MaxAttempts(thumbnailAttempts))
}

// enqueueUpload accepts an upload: it is in the store before its job is in Redis, and the job is before the client hears of it. Both are asked
// for room before megabytes travel.
func (t *Tasks) enqueueUpload(ctx context.Context, name string, args any, upload []byte, options ...tasks.Option) (id string, err error) {
	options = append([]tasks.Option{tasks.Key(ulid.MustNew(ulid.Now(), rand.Reader).String()), tasks.Keep(recordTTL)}, options...)
	id, err = t.client.Room(ctx, options...)
	if err == nil {
		err = t.store.saveUpload(ctx, id, upload)
	}
	if err != nil {
		return "", t.note(err)
	}
	_, err = t.EnqueueTask(ctx, name, args, options...)
	if err != nil && !errors.Is(err, tasks.ErrUnavailable) {
		t.store.dropUpload(ctx, id) // refused; after ErrUnavailable the job may be there, and needs it
	}
	return id, err
}

// thumbnail is the handler. It may run more than once for a job: every run stores the same bytes under the same key.
func (t *Tasks) thumbnail(ctx context.Context, args thumbnailArgs) (_ []byte, err error) {
	job := tasks.FromContext(ctx)
	err = errors.New("the handler panicked")
	defer func() {
		t.endUpload(ctx, job, err)
	}()
	if args.InDatabase && !t.inDatabase() {
		err = elsewhere()
	} else {
		err = t.makeThumbnail(ctx, job.ID, box{args.Width, args.Height})
	}
	var p *problem
	switch {
	case errors.Is(err, tasks.ErrUnavailable), errors.Is(err, tasks.ErrFull): // the store's fault: the attempt does not count
		t.note(err)
		err = &taskError{newProblem(0, "store_unavailable", "Redis or PostgreSQL was away or full when the job ran, it will be tried again"), err}
	case errors.As(err, &p): // the image's own fault, now and next time
		err = &taskError{p, tasks.ErrSkipRetry}
	}
	return nil, err
}

// endUpload lets the upload of a job go whose handler returns err, if that is the end. A dead one's is kept for its retry.
func (t *Tasks) endUpload(ctx context.Context, job *tasks.Job, err error) {
	switch {
	case !endsWith(ctx, job, err):
	case context.Cause(ctx) == tasks.ErrCancelled:
		t.store.dropUpload(ctx, job.ID)
	default:
		t.store.failUpload(ctx, job.ID)
	}
}

// endsWith reports whether a job is over, and not done, when its handler returns err.
func endsWith(ctx context.Context, job *tasks.Job, err error) bool {
	switch cause := context.Cause(ctx); {
	case err == nil, cause == tasks.ErrShutdown, cause == tasks.ErrLeaseLost: // done, or it goes back to the queue
		return false
	case cause == tasks.ErrCancelled, errors.Is(err, tasks.ErrSkipRetry):
		return true
	case cause != context.DeadlineExceeded && (errors.Is(err, tasks.ErrUnavailable) || errors.Is(err, tasks.ErrFull)):
		return false // postponed
	}
	return job.Attempt >= job.Max
}

func (t *Tasks) makeThumbnail(ctx context.Context, id string, want box) error {
	upload, err := t.store.upload(ctx, id)
	if errors.Is(err, errNotStored) {
		// A run that was killed between its last write and the end in the books has put the result in its place.
		made, err := t.store.result(ctx, id)
		if errors.Is(err, errNotStored) {
			return newProblem(fasthttp.StatusGone, "upload_expired", "the image is not there any more, it is kept for %s: send it again", hours(uploadTTL))
		}
		if err != nil { // an outage says nothing about the upload
			return err
		}
		return t.store.saveResult(ctx, id, made)
	}
	if err != nil {
		return err
	}
	made, err := t.decodeInTurn(ctx, upload, want)
	if err != nil {
		return err
	}
	return t.store.saveResult(ctx, id, made)
}

// decodeInTurn makes the thumbnail when a core is free. Decoding cannot be interrupted: it takes a second at most.
func (t *Tasks) decodeInTurn(ctx context.Context, upload []byte, want box) (*product, error) {
	plan, err := inspect(upload)
	if err != nil {
		return nil, err
	}
	progress := func(percent int, note string) {
		if job := tasks.FromContext(ctx); job != nil && plan.canvas.Dx()*plan.canvas.Dy() >= worthProgress {
			job.Progress(percent, note)
		}
	}
	progress(5, "waits for a core")
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	progress(20, "decoding "+plan.format.name)
	made, err := plan.thumbnail(want)
	if err != nil {
		return nil, err
	}
	progress(90, "storing")
	return made, context.Cause(ctx)
}
