package tasks

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// An operator's mistake is an outage for callers, and the error says what to set.
func TestAServerThatRefusesUsIsUnavailableAndSaysWhatToSet(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	e := newEnv(t, s.url())
	patient := Options{Patience: time.Millisecond}
	refused := func(c *Client, what, remedy string) {
		t.Helper()
		_, enqueued := c.Enqueue(t.Context(), "x", nil)
		_, looked := c.Status(t.Context(), "default.0.a")
		_, cancelled := c.Cancel(t.Context(), "default.0.a")
		for _, err := range []error{c.Ping(t.Context()), enqueued, looked, cancelled} {
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), remedy) {
				t.Errorf("%v, want %s and %q", err, what, remedy)
			}
		}
	}
	set := func(name, value string) {
		t.Helper()
		err := e.do(func(b rueidis.Builder) rueidis.Completed {
			return b.ConfigSet().ParameterValue().ParameterValue(name, value).Build()
		}).Error()
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := e.c().Ping(t.Context()); err != nil {
		t.Fatal(err)
	}

	if err := e.do(func(b rueidis.Builder) rueidis.Completed {
		return b.AclSetuser().Username("guest").Rule("on", "nopass", "+ping", "+hello", "+client", "+select").Build()
	}).Error(); err != nil {
		t.Fatal(err)
	}
	guest := newEnv(t, strings.Replace(s.url(), "redis://", "redis://guest:any@", 1)).connect(patient)
	if _, err := guest.Enqueue(t.Context(), "x", nil); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "NOPERM") || !strings.Contains(err.Error(), "grant") {
		t.Error(err)
	}

	set("maxclients", "1")
	refused(newEnv(t, s.url()).connect(patient), "max number of clients", "maxclients")
	set("maxclients", "1000")

	set("requirepass", "secret")
	refused(newEnv(t, s.url()).connect(patient), "NOAUTH", "set one in its URL")
	refused(newEnv(t, strings.Replace(s.url(), "redis://", "redis://:wrong@", 1)).connect(patient), "WRONGPASS", "in its URL")
	good := newEnv(t, strings.Replace(s.url(), "redis://", "redis://:secret@", 1)).connect(patient)
	if _, err := good.Enqueue(t.Context(), "x", nil); err != nil {
		t.Error(err)
	}

	if err := e.do(func(b rueidis.Builder) rueidis.Completed { return b.Arbitrary("REPLICAOF", "127.0.0.1", "1").Build() }).Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := good.Enqueue(t.Context(), "x", nil); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "primary") {
		t.Error(err)
	}
}
