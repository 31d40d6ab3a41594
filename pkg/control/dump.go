package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"supervisor/pkg/profile"
)

// DumpRequest asks for what a process does or holds. It is answered with the profile itself: text, or what `go tool pprof` reads.
type DumpRequest struct {
	Target  string       `json:"target"` // a slot (web.2), a worker (web.2.17), a pool with one worker, or "": the supervisor itself
	Kind    profile.Kind `json:"kind"`
	Seconds float64      `json:"seconds,omitempty"` // of a CPU profile, up to profile.MaxTime
}

// HeaderWorker says in the answer to a DumpRequest whose profile it is: web.2.17, or supervisor.
const HeaderWorker = "Worker"

// dumpPatience is how long a profile may take beyond its own time: a supervisor that is stopped meanwhile never ends it.
const dumpPatience = time.Minute

// Dump asks for a profile, at most profile.MaxSize bytes. The end of ctx ends also the taking of it.
func (c *Client) Dump(ctx context.Context, r DumpRequest) (worker string, data []byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(r.Seconds*float64(time.Second))+dumpPatience, ErrSilent)
	defer cancel()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), ErrSilent) {
			err = ErrSilent
		}
	}()
	err = c.exchange(ctx, http.MethodPost, PathDump, r, func(resp *http.Response) error {
		worker = resp.Header.Get(HeaderWorker)
		data, err = io.ReadAll(io.LimitReader(resp.Body, profile.MaxSize+1))
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("the profile is incomplete: the supervisor or %s ended meanwhile", worker)
		case err != nil:
			return cause(err)
		case worker == "" || len(data) > profile.MaxSize:
			return errors.New("unexpected answer: is that a supervisor's socket?")
		}
		return nil
	})
	return worker, data, err
}
