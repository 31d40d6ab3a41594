package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
)

func withRedis(t *testing.T) *miniredis.Miniredis {
	t.Helper()
	redis := miniredis.RunT(t)
	t.Setenv("REDIS_URL", "redis://:s3cret@"+redis.Addr())
	redis.RequireAuth("s3cret")
	t.Setenv("TASK_BROKER_URL", "")
	t.Setenv("TASK_RESULT_BACKEND", "")
	return redis
}

func jobs(t *testing.T, want int, args ...string) string {
	t.Helper()
	code, stdout, stderr := runApp(append([]string{"jobs"}, args...)...)
	if code != want || strings.Contains(stdout+stderr, "s3cret") {
		t.Fatalf("app jobs %s: exit %d, want %d\n%s%s", strings.Join(args, " "), code, want, stdout, stderr)
	}
	if code == exitOK {
		return stdout
	}
	return stderr
}

func TestJobsFromEnqueueToPurge(t *testing.T) {
	withRedis(t)
	if out := jobs(t, 0, "queues"); !strings.Contains(out, "no queue yet") {
		t.Error(out)
	}
	if out := jobs(t, 0, "runners"); !strings.Contains(out, "app work") {
		t.Error(out)
	}
	// Flags after arguments count, too.
	id := strings.TrimSpace(jobs(t, 0, "enqueue", "report", `{"month": "may"}`, "--priority", "0", "--key=k1"))
	if id != "default.0.k1" {
		t.Fatal(id)
	}
	jobs(t, 0, "enqueue", "report", "--key", "k2", "--in", "1h")
	var stored struct {
		Jobs []struct{ ID, State, Name string }
	}
	if err := json.Unmarshal([]byte(jobs(t, 0, "list", "--json")), &stored); err != nil || len(stored.Jobs) != 1 || stored.Jobs[0].ID != id || stored.Jobs[0].State != "pending" {
		t.Errorf("%+v, %v", stored, err)
	}
	if out := jobs(t, 0, "list", "--state", "scheduled"); !strings.Contains(out, "default.0.k2") || !strings.Contains(out, "in 59 min") {
		t.Error(out)
	}
	if out := jobs(t, 0, "list", "--state", "dead"); out != "no jobs of default are dead\n" {
		t.Error(out)
	}
	if out := jobs(t, 0, "show", id); !strings.Contains(out, "priority  0") || !strings.Contains(out, `"month": "may"`) {
		t.Error(out)
	}
	var shown map[string]any
	if err := json.Unmarshal([]byte(jobs(t, 0, "show", id, "--json", "--bytes", "5")), &shown); err != nil || shown["payload"] != `{"mon` || shown["cut"] != true {
		t.Errorf("%v, %v", shown, err)
	}
	if out := jobs(t, 0, "pause", "default"); out != "default is paused\n" {
		t.Error(out)
	}
	if out := jobs(t, 0, "pause", "default"); out != "default is paused already\n" {
		t.Error(out)
	}
	if out := jobs(t, 0, "queues"); !strings.Contains(out, "paused 0 s") && !strings.Contains(out, "paused 1") && !strings.Contains(out, " ms") {
		t.Error(out)
	}
	jobs(t, 0, "resume", "default")
	if out := jobs(t, 0, "cancel", id); out != id+" is cancelled\n" {
		t.Error(out)
	}
	if out := jobs(t, exitState, "cancel", id); !strings.Contains(out, "is cancelled: it has ended") {
		t.Error(out)
	}
	if out := jobs(t, exitState, "retry", id); !strings.Contains(out, "not dead") {
		t.Error(out)
	}
	if out := jobs(t, 0, "purge", "--state", "scheduled", "--yes"); out != "1 job went\n" {
		t.Error(out)
	}
	if out := jobs(t, 0, "verify"); !strings.Contains(out, "accepted 2, done 0, dead 0, cancelled 2") {
		t.Error(out)
	}
}

func TestJobsErrors(t *testing.T) {
	redis := withRedis(t)
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"":                               {exitUsage, "which command?"},
		"lsit":                           {exitUsage, `no command "lsit" under app jobs; there are enqueue, list`},
		"show":                           {exitUsage, "want ID"},
		"show a b":                       {exitUsage, `"a b"`},
		"show abc":                       {exitUsage, "not a job id"},
		"show default.0.none":            {exitNotFound, "no such job"},
		"retry default.0.none":           {exitNotFound, "no such job"},
		"cancel default.0.none":          {exitNotFound, "no such job"},
		"list --queue nope":              {exitNotFound, `queue "nope"`},
		"pause nope":                     {exitNotFound, "no such queue"},
		"list --state odd":               {exitUsage, "--state odd: want one of pending, running"},
		"list --limit 5000":              {exitUsage, "--limit 5000: want 1 to 1000\napp: try app jobs list --help"},
		"list --cursor x":                {exitUsage, "cursor"},
		"list --nope":                    {exitUsage, "-nope"},
		"purge --queue nope --yes":       {exitNotFound, "nope"},
		"enqueue x":                      {exitUsage, `no handler for "x" in this app; there are export, import, mail, report, thumbnail, webhook (--force`},
		"enqueue x --force --queue a.b":  {exitUsage, "a.b"},
		"enqueue x y z":                  {exitUsage, "too many"},
		"show default.0.none --bytes -1": {exitUsage, "-1"},
	} {
		if out := jobs(t, want.code, strings.Fields(line)...); !strings.Contains(out, want.says) {
			t.Errorf("app jobs %s: %q, want %q", line, out, want.says)
		}
	}
	jobs(t, 0, "enqueue", "x", "--force")
	if out := jobs(t, exitUsage, "purge", "--state", "pending"); !strings.Contains(out, "--yes") { // no terminal
		t.Error(out)
	}
	terminal, stdin = func() bool { return true }, strings.NewReader("n\ny\n")
	if out := jobs(t, exitFailed, "purge", "--state", "pending"); !strings.Contains(out, "Let 1 job of default that are pending go?") || !strings.Contains(out, "nothing was done") {
		t.Error(out)
	}
	stdin = strings.NewReader("y\n")
	if out := jobs(t, 0, "purge", "--state", "pending"); out != "1 job went\n" {
		t.Error(out)
	}
	stdin = strings.NewReader(`{"from": "stdin"}`)
	id := strings.TrimSpace(jobs(t, 0, "enqueue", "x", "-", "--force"))
	if out := jobs(t, 0, "show", id); !strings.Contains(out, `"from": "stdin"`) {
		t.Error(out)
	}
	redis.RequireAuth("another")
	if out := jobs(t, exitConfig, "queues"); !strings.Contains(out, "REDIS_URL") {
		t.Error(out)
	}
	redis.Close()
	if out := jobs(t, exitFailed, "queues"); !strings.Contains(out, "unavailable") {
		t.Error(out)
	}
	t.Setenv("REDIS_URL", "")
	if out := jobs(t, exitConfig, "queues"); !strings.Contains(out, "set REDIS_URL") {
		t.Error(out)
	}
}

func TestJobsHelpNamesEachCommand(t *testing.T) {
	out := jobs(t, 0, "--help")
	for _, command := range strings.Fields("enqueue list show cancel retry purge queues pause resume runners verify") {
		if !strings.Contains(out, command) {
			t.Errorf("no %s in %s", command, out)
		}
		if help := jobs(t, 0, command, "--help"); !strings.Contains(help, "--json") {
			t.Error(help)
		}
	}
}
