// Package lazyredis is a Redis that may be away, also when the program starts: it is dialled when first needed, and again when that has
// failed. (rueidis does that by itself for one address only; for Sentinels and clusters it wants an answer first.)
package lazyredis

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/redis/rueidis"
)

// Parse reads a URL (redis://, rediss://, unix://), with the settings that all our clients share. Its errors may repeat the URL, and so a
// password.
func Parse(url string) (rueidis.ClientOption, error) {
	base, query, _ := strings.Cut(url, "?")
	base = strings.TrimSuffix(base, "/") // redis://host/ is how many write redis://host; the parser takes the empty path for a database number
	if query != "" {
		base += "?" + query
	}
	settings, err := rueidis.ParseURL(base)
	settings.DisableCache = true // no CLIENT TRACKING: nothing here is read twice
	settings.DisableRetry = true // it would retry until the context ends; callers know better what may be sent twice
	settings.ReadBufferEachConn, settings.WriteBufferEachConn = 64<<10, 64<<10
	settings.RingScaleEachConn = 8 // few calls are under way at once
	return settings, err
}

// ErrClosed says that Close was called.
var ErrClosed = errors.New("lazyredis: closed")

// DialError says why the last attempt to connect failed.
type DialError struct{ Err error }

func (e *DialError) Error() string { return e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }

// Link is a client that may not be there yet.
type Link struct {
	settings rueidis.ClientOption

	mu      sync.Mutex
	client  rueidis.Client // set once
	dialing chan struct{}  // closed when the attempt under way has ended; nil: none
	err     error          // of the last attempt
	closed  bool
}

// New dials nobody yet.
func New(settings rueidis.ClientOption) *Link { return &Link{settings: settings} }

// Get gives the client, or why there is none: ErrClosed, a *DialError, or the cause of the context's end. Attempts are made one at a time, and
// nobody waits longer than its context.
func (l *Link) Get(ctx context.Context) (rueidis.Client, error) {
	l.mu.Lock()
	if l.client == nil && !l.closed {
		if l.dialing == nil {
			l.dialing = make(chan struct{})
			go l.dial(l.dialing)
		}
		dialing := l.dialing
		l.mu.Unlock()
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, ErrClosed
	case l.client == nil:
		return nil, &DialError{l.err}
	}
	return l.client, nil
}

func (l *Link) dial(done chan struct{}) {
	client, err := rueidis.NewClient(l.settings)
	if err != nil && client != nil {
		// A single client comes with its first error; asked again it would dial by itself, but then it tells nobody why.
		client.Close()
		client = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialing, l.err = nil, err
	if client != nil && l.closed {
		client.Close()
	} else {
		l.client = client
	}
	close(done)
}

// Close ends the client. Get gives ErrClosed from now on.
func (l *Link) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.client != nil {
		l.client.Close()
	}
}
