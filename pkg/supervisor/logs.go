package supervisor

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"supervisor/pkg/config"
	"supervisor/pkg/control"
)

// errOutputBlocked says why recent output cannot be told.
var errOutputBlocked = errors.New("nobody takes the supervisor's own output (errorlog, accesslog): it waits, and so does this")

// outputPatience is how long the sink may take to look at a question.
const outputPatience = 3 * time.Second

// recentLogs gives the lines that there are, and, with a reader, goes on giving it those that come.
func (s *Supervisor) recentLogs(ctx context.Context, q control.LogQuery, reader *logReader) ([]control.LogLine, error) {
	found := make(chan []chunk, 1)
	ctx, cancel := context.WithTimeoutCause(ctx, outputPatience, errOutputBlocked)
	defer cancel()
	select {
	case s.sink.pieces <- piece{find: &q, reader: reader, found: found}:
	case <-s.sink.done:
		return nil, errLoopEnded
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case chunks := <-found:
		var lines []control.LogLine
		for _, c := range chunks {
			lines = append(lines, c.decode()...)
		}
		if extra := len(lines) - q.Newest; q.Newest > 0 && extra > 0 {
			lines = lines[extra:]
		}
		return lines, nil
	case <-s.sink.done:
		return nil, errLoopEnded
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// answerLogs is GET /v1/logs.
func (s *Supervisor) answerLogs(w http.ResponseWriter, r *http.Request) {
	q, err := control.ParseLogQuery(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	if err = s.mayHaveOutput(r.Context(), q.What); err == nil && r.URL.Query().Get("follow") != "" {
		s.stream(w, r, func(send func(...any) error) error { return s.followLogs(r.Context(), q, send) })
		return
	}
	lines := []control.LogLine{}
	if err == nil {
		var found []control.LogLine
		found, err = s.recentLogs(r.Context(), q, nil)
		lines = append(lines, found...)
	}
	switch e := new(control.Error); {
	case errors.As(err, &e):
		fail(w, e.Status, "%s", e.Text)
	case err != nil:
		fail(w, http.StatusServiceUnavailable, "%v", err)
	default:
		reply(w, http.StatusOK, control.Logs{Lines: lines})
	}
}

// mayHaveOutput says why there can be no output of something.
func (s *Supervisor) mayHaveOutput(ctx context.Context, what string) error {
	if what == "" || what == control.SupervisorName {
		return nil
	}
	if err := s.knows(ctx, what); err != nil {
		return err
	}
	var refused error
	err := s.inLoop(ctx, func() {
		name, _, _ := strings.Cut(what, ".")
		if p := s.poolNamed(name); p != nil && p.cfg.Output == config.OutputInherit {
			refused = refuse(http.StatusConflict, `pool %s has output = "inherit": its workers write to the supervisor's own stdout and stderr, and it does not see what`, name)
		}
	})
	return errors.Join(err, refused)
}

// followLogs sends lines as they come, until the client or the supervisor ends.
func (s *Supervisor) followLogs(ctx context.Context, q control.LogQuery, send func(...any) error) error {
	reader := newLogReader(q)
	defer reader.gone.Store(true)
	lines, err := s.recentLogs(ctx, q, reader)
	if errors.Is(err, errLoopEnded) {
		return nil
	}
	if err != nil {
		return err
	}
	beat := time.NewTicker(control.StreamBeat)
	defer beat.Stop()
	over := s.over
	for ended := false; ; {
		var out []any
		if lost := reader.lost.Swap(0); lost > 0 {
			out = append(out, control.LogLine{At: time.Now(), Lost: lost})
		}
		for _, l := range lines {
			out = append(out, l)
		}
		if err := send(out...); err != nil {
			return err
		}
		lines = nil
		for len(lines) == 0 && reader.lost.Load() == 0 {
			select {
			case c := <-reader.chunks:
				reader.took(c)
				lines = c.decode()
				continue
			default:
			}
			if ended {
				return nil
			}
			select {
			case c := <-reader.chunks:
				reader.took(c)
				lines = c.decode()
			case <-beat.C:
				if err := send(); err != nil {
					return err
				}
			case <-over:
				// What was written before comes before the answer to this.
				over, ended = nil, true
				s.recentLogs(ctx, control.LogQuery{After: time.Now()}, nil)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}
