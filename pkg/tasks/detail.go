package tasks

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"

	"supervisor/pkg/tracecontext"
)

// Detail is all that is known of one job.
type Detail struct {
	Status
	Data []byte // the first bytes of the payload, or of the result when it is done
	Size int    // of all of it
	// Trace is for whom the job is, or was, done; not Valid: nobody said, or its record is gone.
	Trace tracecontext.Context
}

// Job tells of one job, with at most limit bytes of its payload.
func (i *Inspector) Job(ctx context.Context, id string, limit int) (Detail, error) {
	var d Detail
	l, err := parseID(i.c.options.Namespace, id)
	if err != nil {
		return d, err
	}
	if d.Status, err = i.c.Status(ctx, id); err != nil {
		return d, err
	}
	err = i.do(ctx, func(ctx context.Context, conn rueidis.Client) error {
		// One read, so that all of it is of one moment; a second one if it was too short for the name and the extra.
		for want := headerSize + maxName + limit; ; {
			raw, err := conn.Do(ctx, conn.B().Getrange().Key(l.job(id)).Start(0).End(int64(want)-1).Build()).AsBytes()
			if err != nil {
				return err
			}
			r, err := decodeHeader(raw)
			if err != nil { // it went meanwhile: what was read before is still true
				return nil
			}
			from := headerSize + len(r.name) + r.extraSize
			to := from + min(r.size, limit)
			if to > len(raw) {
				if want < to {
					want = to
					continue
				}
				return fmt.Errorf("job %s: %d bytes of %d: %w", id, len(raw), to, errBadRecord)
			}
			d.Data, d.Size = raw[from:to:to], r.size
			if x, err := decodeExtra(raw[from-r.extraSize : from]); err == nil {
				d.Trace = decodeTrace(x.trace)
			}
			return nil
		}
	})
	if d.State == Done && d.Size == 0 { // its result may lie elsewhere
		if kept, err := i.c.load(ctx, id); err == nil {
			d.Data, d.Size = kept.Result[:min(len(kept.Result), limit)], len(kept.Result)
		}
	}
	return d, err
}
