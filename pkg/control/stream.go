package control

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// TrailerEnded says at the end of a stream why it ended: EndedStop, or EndedUpgrade. A stream without it broke.
	TrailerEnded = "Ended"
	EndedStop    = "stop"
	EndedUpgrade = "upgrade"

	// StreamBeat is how often a stream says that it lives.
	StreamBeat = 15 * time.Second
	// A stream that is silent for so long comes from a supervisor that hangs.
	streamPatience = 3 * StreamBeat
)

// History asks for events.
func (c *Client) History(ctx context.Context, q HistoryQuery) (History, error) {
	var h History
	err := c.ask(ctx, http.MethodGet, PathHistory+"?"+q.Values().Encode(), nil, &h)
	return h, err
}

// FollowHistory calls each with the events that there are, and then with those that come, until ctx ends, each fails, or the supervisor stops
// (nil). It goes on with the successor after a self-upgrade, and with the next supervisor if that comes within Patience.
func (c *Client) FollowHistory(ctx context.Context, q HistoryQuery, each func(Event) error) error {
	path := func() string {
		v := q.Values()
		v.Set("follow", "1")
		return PathHistory + "?" + v.Encode()
	}
	return c.follow(ctx, path, func(line []byte) error {
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("unexpected answer: %w: is that a supervisor's socket?", err)
		}
		q.After, q.Newest = max(q.After, e.Seq), 0
		return each(e)
	})
}

// follow reads a stream line by line, and the next one when it broke, or its supervisor has handed over. path is asked before each try.
func (c *Client) follow(ctx context.Context, path func() string, take func(line []byte) error) error {
	var failed error // of take
	var heard time.Time
	for {
		ended, err := c.streamOnce(ctx, path(), func(line []byte) error {
			if heard = time.Now(); len(line) == 0 {
				return nil
			}
			failed = take(line)
			return failed
		})
		told := new(Error)
		switch {
		case failed != nil:
			return failed
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case ended == EndedStop:
			return nil
		case errors.Is(err, ErrSilent), errors.As(err, &told), time.Since(heard) > Patience:
			return cmp.Or(err, io.ErrUnexpectedEOF)
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
		}
	}
}

// streamOnce reads one stream, and gives the reason that its end has.
func (c *Client) streamOnce(ctx context.Context, path string, take func(line []byte) error) (ended string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(Patience, func() { cancel(ErrSilent) })
	defer silent.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://supervisor"+path, nil)
	if err != nil {
		return "", err
	}
	hear := func(err error) error {
		if errors.Is(context.Cause(ctx), ErrSilent) {
			return ErrSilent
		}
		return cause(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", hear(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
		return "", refusalOf(resp, text)
	}
	lines := bufio.NewReader(resp.Body)
	for {
		silent.Reset(streamPatience)
		line, err := lines.ReadBytes('\n')
		if err == nil {
			if err := take(bytes.TrimSpace(line)); err != nil {
				return "", err
			}
		}
		switch {
		case err == io.EOF:
			return resp.Trailer.Get(TrailerEnded), nil
		case err != nil:
			return "", hear(err)
		}
	}
}
