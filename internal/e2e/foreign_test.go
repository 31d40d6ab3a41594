package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/internal/loadtest"
)

// Programs that know nothing of us, in the languages that people have. They speak systemd's socket activation and sd_notify.

const gunicornApp = `
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello from gunicorn"]
`

const pythonServer = `
import os, signal, socket
from http.server import BaseHTTPRequestHandler, HTTPServer

class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"hello from python"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass

server = HTTPServer(("", 0), Hello, bind_and_activate=False)
assert os.environ["LISTEN_PID"] == str(os.getpid())
server.socket = socket.socket(fileno=3)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.connect("\0" + os.environ["NOTIFY_SOCKET"][1:])
    notify.send(b"READY=1")
server.serve_forever()
`

const nodeServer = `
const http = require('http'), { execFileSync } = require('child_process')
const server = http.createServer((req, res) => res.end('hello from node'))
server.listen({ fd: 3 }, () => {
  // Node has no datagram sockets of unix kind; a child of ours may speak for us.
  execFileSync('python3', ['-c', ` + "`" + `
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
s.send(b"READY=1")` + "`" + `])
})
process.on('SIGTERM', () => server.close(() => process.exit(0)))
`

// A plain accept() loop, one process, no event loop, blocking sockets.
const shellWorker = `#!/bin/sh
trap 'exit 0' TERM
while :; do sleep 1 & wait $!; done
`

func foreign(t *testing.T, s *server, says string) {
	t.Helper()
	s.await("pool serves", 1)
	if resp, body := s.get("/"); resp.StatusCode != http.StatusOK || !strings.Contains(string(body), says) {
		t.Fatalf("%d %q", resp.StatusCode, body)
	}
	// Foreign workers: no new connection is lost by a reload.
	load, err := loadtest.Start(context.Background(), loadtest.Plan{
		Target: s.addr, Path: "/", Mix: loadtest.Mix{OneShot: 4}, Duration: 5 * time.Minute, Timeout: eventually,
		Check: loadtest.CheckStatus, GetOnly: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	load.Await(50)
	for range 3 {
		s.reload()
		load.Await(50)
	}
	result := load.Stop()
	if n := result.Failed[loadtest.DialRefused] + result.Failed[loadtest.DialFailed] + result.Failed[loadtest.TimedOut]; n > 0 || result.OK < 150 {
		t.Errorf("%v", result)
	}
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n := s.count("worker died|worker is killed"); n > 0 {
		t.Errorf("%d workers died", n)
	}
}

func TestGunicornAsWorker(t *testing.T) {
	t.Parallel()
	gunicorn := need(t, "gunicorn")
	if out, err := exec.Command(gunicorn, "--version").CombinedOutput(); err != nil {
		gunicorn = "/usr/bin/gunicorn" // Debian's, where another Python stands before it in PATH
		if _, err2 := exec.LookPath(gunicorn); err2 != nil {
			t.Fatalf("gunicorn: %v: %s", err, out)
		}
	}
	dir := filepath.Dir(write(t, "hello.py", gunicornApp))
	foreign(t, start(t, nil, "-w", "2", "-b", "127.0.0.1:0", "--chdir", dir, "--",
		gunicorn, "--log-level", "warning", "--workers", "1", "hello:app"), "hello from gunicorn")
}

func TestPythonAsWorker(t *testing.T) {
	t.Parallel()
	script := write(t, "server.py", pythonServer)
	foreign(t, start(t, nil, "-w", "2", "-b", "127.0.0.1:0", "--", need(t, "python3"), script), "hello from python")
}

func TestNodeAsWorker(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	script := write(t, "server.js", nodeServer)
	foreign(t, start(t, nil, "-w", "2", "-b", "127.0.0.1:0", "--", need(t, "node"), script), "hello from node")
}

// A shell script without sockets: a background job that is kept alive.
func TestShellScriptAsWorker(t *testing.T) {
	script := write(t, "job.sh", shellWorker)
	config := write(t, "supervisor.toml", fmt.Sprintf("[pool.job]\ncommand = [%q]\nready = \"exec\"\nworkers = 2\n", script))
	s := launch(t, nil, "-c", config)
	s.await("pool serves", 1)
	s.signal(syscall.SIGUSR1)
	s.await("logs reopened", 1)
	s.reload()
	s.await("worker gone", 2)
	syscall.Kill(s.children()[0], syscall.SIGKILL)
	s.await("worker died", 1)
	s.await("worker ready", 5)
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
