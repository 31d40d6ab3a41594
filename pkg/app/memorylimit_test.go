package app

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"supervisor/pkg/tasks"
)

// A full one refuses jobs and uploads as Redis does; what is there already runs to its end, and makes room.
func TestTheInMemoryRedisRefusesWhatItHasNoRoomFor(t *testing.T) {
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	bound := &limit{bytes: before.HeapAlloc + 64<<20}
	m, err := startMemoryRedis("unix:"+filepath.Join(t.TempDir(), "s"), bound)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	client, err := tasks.Connect(m.URL(), tasks.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	store, err := openRedisStore(m.URL(), 10<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)

	var ids []string
	for err == nil && len(ids) < 1000 {
		var id string
		if id, err = client.Enqueue(t.Context(), "x", []byte(strings.Repeat("x", 4<<20))); err == nil {
			ids = append(ids, id)
		}
	}
	if !errors.Is(err, tasks.ErrFull) || len(ids) < 4 || len(ids) > 30 { // 16, but for what was garbage at the start
		t.Fatalf("after %d jobs of 4 MiB in a limit of 64: %v", len(ids), err)
	}
	if err := store.saveUpload(t.Context(), "a", make([]byte, 4<<20)); !errors.Is(err, tasks.ErrFull) {
		t.Errorf("upload: %v", err)
	}
	if state, err := client.Cancel(t.Context(), ids[0]); err != nil || state != tasks.Cancelled {
		t.Errorf("cancel: %q, %v", state, err)
	}
	mux := tasks.NewMux()
	mux.Handle("x", func(context.Context, *tasks.Job) ([]byte, error) { return nil, nil })
	runner, err := tasks.NewRunner(client, mux, tasks.RunnerOptions{Concurrency: 2})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	for runner.Counts().Done < int64(len(ids)-1) {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-t.Context().Done():
			t.Fatal("it does not end")
		default:
			time.Sleep(5 * time.Millisecond)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	ids = nil
	// Within moments: what is alive is looked at ten times a second.
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		_, err := client.Enqueue(t.Context(), "x", make([]byte, 4<<20))
		if err == nil {
			break
		}
		if !errors.Is(err, tasks.ErrFull) || time.Since(began) > 30*time.Second {
			t.Fatalf("there is room again: %v", err)
		}
	}
}
