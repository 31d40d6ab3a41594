package tasks

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAScheduleEnqueuesOnceHoweverManyRunnersHaveIt(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		var mu sync.Mutex
		ran := map[string]int{}
		count := func() int { mu.Lock(); defer mu.Unlock(); return len(ran) }
		mux := NewMux()
		mux.Handle("x", func(_ context.Context, job *Job) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			ran[job.ID]++
			return nil, nil
		})
		for range 3 {
			e.run(mux, RunnerOptions{Schedule: []Periodic{{Name: "tick", Spec: "@every 1s", Task: Task{Name: "x"}}}})
		}
		until(t, "three of them", func() bool { return count() >= 3 })
		mu.Lock()
		for id, n := range ran {
			if n != 1 || !strings.HasPrefix(id, "default.0.cron:tick:1") {
				t.Errorf("%s ran %d times", id, n)
			}
		}
		mu.Unlock()
	})
}

func TestTimesOfASchedule(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones here")
	}
	at := func(s string) time.Time {
		t.Helper()
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, test := range []struct {
		spec  string
		where *time.Location
		after string
		want  string
	}{
		{"30 4 * * *", nil, "2026-06-01T00:00:00Z", "2026-06-01T04:30:00Z"},
		{"30 4 * * *", berlin, "2026-06-01T00:00:00Z", "2026-06-01T02:30:00Z"},
		{"*/15 9-17 * * mon-fri", nil, "2026-06-05T17:45:00Z", "2026-06-08T09:00:00Z"},
		{"@hourly", nil, "2026-06-01T00:00:01Z", "2026-06-01T01:00:00Z"},
		{"@every 90s", nil, "2026-06-01T00:00:01Z", "2026-06-01T00:01:30Z"},
		{"30 2 * * *", berlin, "2026-03-29T00:00:00Z", "2026-03-29T01:30:00Z"}, // 02:30 does not exist that day: 03:30
		// 02:30 comes twice that day, and 02:00.
		{"30 2 * * *", berlin, "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"},
		{"30 2 * * *", berlin, "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},
		{"30 2,3 * * *", berlin, "2026-10-25T00:30:00Z", "2026-10-25T02:30:00Z"},
		{"0 * * * *", berlin, "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"},
		{"@hourly", berlin, "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"},
		{"@daily", berlin, "2026-10-25T12:00:00Z", "2026-10-25T23:00:00Z"},
	} {
		p, err := Periodic{Name: "x", Spec: test.spec, Location: test.where}.read()
		if err != nil {
			t.Errorf("%s: %v", test.spec, err)
			continue
		}
		if got := p.next(at(test.after)); !got.Equal(at(test.want)) {
			t.Errorf("%s after %s: %s, want %s", test.spec, test.after, got.UTC(), test.want)
		}
	}
	for _, bad := range []Periodic{
		{Name: "x"}, {Name: "x", Spec: "* * * *"}, {Name: "x", Spec: "61 * * * *"}, {Name: "x", Spec: "0 0 30 2 *"}, {Name: "x", Spec: "@every 1ms"},
		{Spec: "@hourly"}, {Name: "a b", Spec: "@hourly"}, {Name: strings.Repeat("x", 120), Spec: "@hourly"}, {Name: "x", Spec: "TZ=0"},
	} {
		if _, err := bad.read(); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestAClockThatIsSetBackDoesNotSilenceASchedule(t *testing.T) {
	t.Parallel()
	minutes, err := Periodic{Name: "x", Spec: "* * * * *"}.read()
	if err != nil {
		t.Fatal(err)
	}
	daily, err := Periodic{Name: "x", Spec: "0 12 * * *"}.read()
	if err != nil {
		t.Fatal(err)
	}
	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		of            timetable
		at, now, want time.Time
	}{
		{minutes, noon, noon.Add(-time.Second), noon},
		{minutes, noon, noon.Add(-10 * time.Minute), noon}, // these minutes were there before
		{minutes, noon, noon.Add(-2 * time.Hour), noon.Add(-2*time.Hour + time.Minute)},
		{daily, noon, noon.Add(-23 * time.Hour), noon},
		{daily, noon, noon.Add(-365 * 24 * time.Hour), noon.Add(-364 * 24 * time.Hour)},
	} {
		if got := test.of.awaited(test.at, test.now); !got.Equal(test.want) {
			t.Errorf("%s: at %s for %s: %s, want %s", test.of.Spec, test.now, test.at, got, test.want)
		}
	}
}

func FuzzPeriodic(f *testing.F) {
	for _, s := range []string{"* * * * *", "*/5 1,2-9/3 * jan mon#2", "@every 1h", "@daily", "TZ=Europe/Berlin 0 0 L * *", "CRON_TZ=UTC 0 0 1 1 7", "TZ=0"} {
		f.Add(s)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, spec string) {
		p, err := Periodic{Name: "x", Spec: spec}.read()
		if err != nil {
			return
		}
		for at, n := now, 0; n < 5; n++ {
			after := p.next(at)
			if after.IsZero() {
				return
			}
			if !after.After(at) {
				t.Fatalf("%q after %s: %s", spec, at, after)
			}
			at = after
		}
	})
}
