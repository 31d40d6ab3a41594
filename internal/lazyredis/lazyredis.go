// Package lazyredis is a Redis that may be away, also when the program starts: it is dialled when first needed, and again when that has
// failed. (rueidis does that by itself for one address only; for Sentinels and clusters it wants an answer first.)
package lazyredis

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// ErrClosed says that Close was called.
var ErrClosed = errors.New("lazyredis: closed")

// DialError says why the last attempt to connect failed.
type DialError struct{ Err error }

func (e *DialError) Error() string { return e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }

// ErrSentinel says that the address is a Sentinel's, and the URL does not say so.
var ErrSentinel = errors.New("it is a Sentinel: name the set that it watches, as in redis://host:26379?master_set=NAME")

// Link is a client that may not be there yet. Of one address it finds out by itself whether a cluster is behind it; several are nodes of a
// cluster, or with a master_set Sentinels.
type Link struct {
	settings rueidis.ClientOption

	mu      sync.Mutex
	client  rueidis.Client // set once
	cluster bool           // the same; of client
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

// Cluster reports whether what Get gave speaks to a cluster, where a command's keys must lie in one slot.
func (l *Link) Cluster() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cluster
}

func (l *Link) dial(done chan struct{}) {
	client, cluster, err := connect(l.settings)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialing, l.err = nil, err
	if client != nil && l.closed {
		client.Close()
	} else {
		l.client, l.cluster = client, cluster
	}
	close(done)
}

func connect(settings rueidis.ClientOption) (client rueidis.Client, cluster bool, err error) {
	switch {
	case settings.Sentinel.MasterSet != "":
		client, err = newClient(settings)
		return client, false, err
	case len(settings.InitAddress) > 1:
		client, err = newClient(settings)
		return client, true, err
	}
	settings.ForceSingleClient = true
	if client, err = newClient(settings); err != nil {
		return nil, false, err
	}
	switch kindOf(client, settings.Dialer.Timeout) {
	case "cluster":
		client.Close()
		settings.ForceSingleClient = false
		client, err = newClient(settings)
		return client, true, err
	case "sentinel":
		client.Close()
		return nil, false, ErrSentinel
	}
	return client, false, nil
}

func newClient(settings rueidis.ClientOption) (rueidis.Client, error) {
	client, err := rueidis.NewClient(settings)
	if err != nil && client != nil {
		// A single client comes with its first error; asked again it would dial by itself, but then it tells nobody why.
		client.Close()
		client = nil
	}
	return client, err
}

// kindOf asks a server what it is: standalone, cluster or sentinel; "" if it does not say, as stand-ins do. Every user may ask that.
func kindOf(client rueidis.Client, within time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(within, 5*time.Second))
	defer cancel()
	facts, _ := Hello(ctx, client)
	return facts["mode"]
}

// Hello gives what a server says of itself to everybody: mode, role and version among others.
func Hello(ctx context.Context, client rueidis.Client) (map[string]string, error) {
	answer, err := client.Do(ctx, client.B().Arbitrary("HELLO").Build()).AsMap()
	facts := make(map[string]string, len(answer))
	for name, value := range answer {
		if text, err := value.ToString(); err == nil {
			facts[name] = text
		}
	}
	return facts, err
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
