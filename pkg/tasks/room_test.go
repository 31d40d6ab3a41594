package tasks

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestRoomTellsTheIdAndWhetherThereIsRoom(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		c, err := Connect(e.url, Options{MaxPending: 2, Namespace: e.namespace})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i, options := range [][]Option{{Key("a")}, {Key("b"), In(time.Hour), Priority(3)}} {
			id, err := c.Room(t.Context(), options...)
			if err != nil {
				t.Fatal(i, err)
			}
			if made, err := c.Enqueue(t.Context(), "x", nil, options...); err != nil || made != id {
				t.Errorf("%s, %v: Room said %s", made, err, id)
			}
		}
		if id, err := c.Room(t.Context(), Key("c")); !errors.Is(err, ErrQueueFull) || id != "default.0.c" {
			t.Errorf("%q, %v", id, err)
		}
		if id, err := c.Room(t.Context(), Key("c"), Queue("other")); err != nil || id != "other.0.c" {
			t.Errorf("%q, %v", id, err)
		}
		if _, err := c.Room(t.Context(), Key("a b")); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "a b") {
			t.Error(err)
		}
	})
}
