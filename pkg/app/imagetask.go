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

// thumbnailArgs is all that the list entry holds.
type thumbnailArgs struct {
	Upload string `json:"upload"` // key in the store
	Width  int    `json:"width"`
	Height int    `json:"height"`
}

// enqueueThumbnail accepts an upload: it is in Redis before its job is, and the job is before the client hears of it.
func (t *Tasks) enqueueThumbnail(ctx context.Context, image []byte, want box) (id string, err error) {
	key := ulid.MustNew(ulid.Now(), rand.Reader).String()
	if err := t.store.saveUpload(ctx, key, image); err != nil {
		return "", t.note(err)
	}
	id, err = t.EnqueueTask(ctx, thumbnailTask, thumbnailArgs{key, want.width, want.height},
		tasks.Key(key), tasks.Timeout(thumbnailTimeout), tasks.MaxAttempts(thumbnailAttempts), tasks.Keep(recordTTL))
	if err != nil && !errors.Is(err, tasks.ErrUnavailable) {
		t.store.dropUpload(ctx, key) // refused; after ErrUnavailable the job may be there, and needs it
	}
	return id, err
}

// makeThumbnail is the handler. It may run more than once for a job: every run stores the same bytes under the same key.
func (t *Tasks) makeThumbnail(ctx context.Context, args thumbnailArgs) ([]byte, error) {
	upload, err := t.store.upload(ctx, args.Upload)
	if errors.Is(err, errNotStored) {
		// A run that was killed between its last write and the end in the books has deleted it.
		switch _, err := t.store.result(ctx, args.Upload); {
		case err == nil:
			return nil, nil
		case !errors.Is(err, errNotStored): // an outage says nothing about the upload
			return nil, err
		}
		return nil, &taskError{newProblem(fasthttp.StatusGone, "upload_expired", "the image waited longer than %v and was deleted: send it again", uploadTTL), true}
	}
	if err != nil {
		return nil, err
	}
	made, err := t.decodeInTurn(ctx, upload, box{args.Width, args.Height})
	if err == nil {
		err = t.store.saveResult(ctx, args.Upload, made)
	}
	var p *problem
	switch {
	case err == nil:
		t.store.dropUpload(ctx, args.Upload)
	case errors.As(err, &p): // the image's own fault, now and next time
		t.store.dropUpload(ctx, args.Upload)
		err = &taskError{p, true}
	}
	return nil, err
}

// decodeInTurn makes the thumbnail when a core is free. Decoding cannot be interrupted: it takes a second at most.
func (t *Tasks) decodeInTurn(ctx context.Context, upload []byte, want box) (*madeThumbnail, error) {
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
