package lazyredis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var patience = Patience{Broken: time.Second, Away: 60 * time.Millisecond}

func TestAgainIsBoundedByTime(t *testing.T) {
	dead := fmt.Errorf("away: %w", io.EOF)
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	refused := fmt.Errorf("away: %w", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})
	other := errors.New("not to be repeated")
	for _, test := range []struct {
		name  string
		fails []error // of the first calls
		then  error   // of all later ones
		want  error
		from  time.Duration
		to    time.Duration
	}{
		{name: "at once"},
		{name: "as many broken connections as there can be", fails: []error{dead, reset, dead, reset, dead, dead, reset, dead, dead, dead, dead, dead}, to: patience.Broken},
		{name: "connections break for ever", then: dead, want: dead, from: patience.Broken - longestPause, to: patience.Broken},
		{name: "nobody listens", then: refused, want: refused, from: patience.Away / 2, to: patience.Away},
		{name: "it broke, and now nobody listens", fails: []error{dead, dead}, then: refused, want: refused, to: patience.Away},
		{name: "it comes back soon", fails: []error{refused, dead}, to: patience.Away},
		{name: "another error", then: other, want: other},
		{name: "a call that hung", then: context.DeadlineExceeded, want: context.DeadlineExceeded, to: patience.Away},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, calls := time.Now(), 0
				err := patience.Again(t.Context(), func(err error) bool { return err != other }, func() error {
					if calls++; calls <= len(test.fails) {
						return test.fails[calls-1]
					}
					return test.then
				})
				if took := time.Since(start); err != test.want || took < test.from || took > test.to {
					t.Errorf("%v after %s and %d calls", err, took, calls)
				}
			})
		})
	}
}

func TestAgainEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := patience.Again(ctx, func(error) bool { return true }, func() error { return io.EOF })
		if took := time.Since(start); err != io.EOF || took != 20*time.Millisecond {
			t.Errorf("%v after %s", err, took)
		}
	})
}
