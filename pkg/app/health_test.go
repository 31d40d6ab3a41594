package app

import (
	"maps"
	"os"
	"slices"
	"testing"
)

func TestHealthSaysWhichWorkerAnswers(t *testing.T) {
	s := serve(t, Config{})
	for _, path := range []string{"/health", "/api/health", "/health/worker"} {
		got := s.get(path)
		got.isGuarded()
		v := got.json()
		want := []string{"active_connections", "generation", "pid", "status", "uptime", "worker_id"}
		if keys := slices.Sorted(maps.Keys(v)); !slices.Equal(keys, want) {
			t.Errorf("%s has %v, want %v", path, keys, want)
		}
		if got.status != 200 || v["status"] != "healthy" || v["worker_id"] != "web.0.1" || v["generation"] != 3.0 ||
			v["pid"] != float64(os.Getpid()) || v["active_connections"].(float64) < 1 || v["uptime"].(float64) < 0 {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}

func TestLiveReadyStartup(t *testing.T) {
	s := serve(t, Config{})
	for _, path := range []string{"/health/live", "/health/ready", "/health/startup"} {
		if got := s.get(path); got.status != 200 || got.json()["status"] != "healthy" {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}

func TestDrainingWorkerIsAliveAndNotReady(t *testing.T) {
	s := serve(t, Config{}, func(a *app) { a.worker.Draining = func() bool { return true } })
	ready := s.get("/health/ready")
	ready.fails(503, "draining")
	if ready.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q", ready.header.Get("Retry-After"))
	}
	if got := s.get("/health/live"); got.status != 200 {
		t.Errorf("live is %d", got.status)
	}
	for _, path := range []string{"/health", "/health/worker"} {
		if got := s.get(path); got.status != 200 || got.json()["status"] != "draining" {
			t.Errorf("%s is %d %s", path, got.status, got.body)
		}
	}
}
