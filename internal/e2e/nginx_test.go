package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/internal/loadtest"
)

// nginxConf is a proxy as people have it in front: connections to us kept alive. It tries nothing a second time (proxy_next_upstream off), so
// that each failure of ours is a 502 or a 504 of its own. Its access log is two numbers per request: what it answered, and what we did.
const nginxConf = `
worker_processes 1;
pid {DIR}/pid;
error_log stderr notice;
daemon off;
worker_rlimit_nofile 8192;
events { worker_connections 4000; }
http {
	log_format statuses "$status $upstream_status";
	access_log {DIR}/access statuses buffer=64k;
	client_body_temp_path {DIR}/body;
	proxy_temp_path {DIR}/proxy;
	fastcgi_temp_path {DIR}/fastcgi;
	uwsgi_temp_path {DIR}/uwsgi;
	scgi_temp_path {DIR}/scgi;
	client_body_buffer_size 512k;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
	upstream app {
		server {UPSTREAM};
		keepalive 32;
		keepalive_requests 1000000000;
	}
	server {
		listen {ADDR};
		location / {
			proxy_pass http://app;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_next_upstream off;
		}
	}
}
`

// nginx is one in a directory of its own, as nobody in particular.
type nginx struct {
	t    *testing.T
	addr string
	dir  string
	cmd  *exec.Cmd
	log  bytes.Buffer // read after its end
	done chan struct{}
}

func startNginx(t *testing.T, upstream string) *nginx {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = need(t, "/usr/sbin/nginx") // a user's PATH may lack it
	}
	n := &nginx{t: t, addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), dir: t.TempDir(), done: make(chan struct{})}
	conf := filepath.Join(n.dir, "nginx.conf")
	text := strings.NewReplacer("{DIR}", n.dir, "{ADDR}", n.addr, "{UPSTREAM}", upstream).Replace(nginxConf)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	n.cmd = exec.Command(program, "-p", n.dir, "-e", "stderr", "-c", conf)
	n.cmd.Stdout, n.cmd.Stderr = &n.log, &n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 {
		const nobody = 65534
		n.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		if err := os.Chown(n.dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		for d := filepath.Dir(n.dir); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			os.Chmod(d, 0o755)
		}
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		n.cmd.Wait()
		close(n.done)
	}()
	t.Cleanup(n.stop)
	for deadline := time.Now().Add(eventually); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", n.addr); err == nil {
			conn.Close()
			return n
		}
		select {
		case <-n.done:
			t.Fatalf("nginx does not start:\n%s", n.log.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("nginx does not listen")
		}
	}
}

// stop ends it; its log is complete then.
func (n *nginx) stop() {
	n.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-n.done:
	case <-time.After(eventually):
		n.t.Error("nginx does not stop")
		syscall.Kill(-n.cmd.Process.Pid, syscall.SIGKILL)
		<-n.done
	}
}

// statuses counts what it answered, and what it was answered.
func (n *nginx) statuses() map[string]int64 {
	n.t.Helper()
	statuses := map[string]int64{}
	for line := range strings.Lines(string(readFile(n.t, filepath.Join(n.dir, "access")))) {
		statuses[strings.TrimSpace(line)]++
	}
	return statuses
}

// Behind nginx, with connections kept alive between it and us: whatever replaces workers, alone and all at random, nobody sees a 502 or a 504,
// and every byte is right.
func TestBehindNginxNobodySees502(t *testing.T) {
	rng := newRandom(t)
	// nginx keeps idle connections for 60 s: ours must be kept for longer, see etc/supervisor.toml.
	s := start(t, []string{"APP_DEBUG=1", "KEEPALIVE=75"}, "-w", "2", "-b", "127.0.0.1:0", "--", app(), "serve")
	s.await("pool serves", 1)
	proxy := startNginx(t, s.addr)
	load, err := loadtest.Start(t.Context(), loadtest.Plan{Target: proxy.addr, Mix: everybody, Duration: time.Hour, Timeout: eventually})
	if err != nil {
		t.Fatal(err)
	}
	load.Await(1000)
	for _, u := range []unrest{
		{reloads: pick(10, 100)},
		{upgrades: pick(5, 50)},
		{scalings: pick(10, 100)},
		{reloads: pick(12, 100), upgrades: pick(6, 50), scalings: pick(12, 100)},
	} {
		s.disturb(load, rng, 2, u)
		load.Await(300)
	}
	result := load.Stop()
	t.Logf("%v", result)
	if err := result.Err(); err != nil {
		t.Error(err)
	}
	s.mustBeCalm(2)

	proxy.stop()
	statuses := proxy.statuses()
	t.Logf("nginx: %v", statuses)
	if right := statuses["200 200"]; right != result.OK || len(statuses) != 1 {
		t.Errorf("nginx answered %v, clients got %d right answers: want only \"200 200\"\nnginx's log:\n%s", statuses, result.OK,
			strings.Join(lastLines(proxy.log.String(), 20), "\n"))
	}
}

func lastLines(text string, n int) []string {
	lines := slices.Collect(strings.Lines(text))
	return lines[max(0, len(lines)-n):]
}
