//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"supervisor/internal/pgtest"
	"supervisor/pkg/app"
)

// TestMain lets the test binary be the app itself: a process of its own, with signals and an exit code.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS_APP") == "1" {
		main()
	}
	code := m.Run()
	pgtest.End()
	os.Exit(code)
}

func appCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(executable, args...)
	cmd.Env = append(os.Environ(), "TEST_AS_APP=1")
	return cmd
}

// freeAddr is an address that was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// logLine is a line of the operator's log.
type logLine struct {
	Message    string `json:"msg"`
	Addr       string `json:"addr"`
	Supervised bool   `json:"supervised"`
}

func TestServeAnswersAndStopsAtTERM(t *testing.T) {
	addr := freeAddr(t)
	cmd := appCommand(t, "serve", "--addr", addr)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	log := bufio.NewScanner(stderr)
	next := func(message string) logLine {
		t.Helper()
		var line logLine
		if !log.Scan() || json.Unmarshal(log.Bytes(), &line) != nil || line.Message != message {
			t.Fatalf("the log says %q, want a line %q", log.Text(), message)
		}
		return line
	}
	if line := next("serving"); line.Addr != addr || line.Supervised {
		t.Errorf("%+v", line)
	}

	var response *http.Response
	for range 100 { // it says that it serves right before it does
		if response, err = http.Get("http://" + addr + "/health/worker"); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	var health struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(body, &health); err != nil || health.PID != cmd.Process.Pid {
		t.Errorf("%s, want pid %d", body, cmd.Process.Pid)
	}

	cmd.Process.Signal(syscall.SIGTERM)
	next("stopped")
	if err := cmd.Wait(); err != nil {
		t.Errorf("after TERM: %v", err)
	}
}

func TestBusyAddressExits69(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := appCommand(t, "serve", "--addr", l.Addr().String())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != exitBind || !strings.Contains(stderr.String(), "app: ") || !strings.Contains(stderr.String(), "address already in use") {
		t.Errorf("exit %d, stderr %s", code, stderr.String())
	}
}

func TestBusySocketExits69(t *testing.T) {
	memory, err := app.StartMemoryRedis("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	socket := filepath.Join(t.TempDir(), "redis.sock")
	other, err := app.StartMemoryRedis("unix:" + socket)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, addr := range []string{strings.TrimPrefix(memory.URL(), "redis://"), "unix:" + socket} {
		cmd := appCommand(t, "redis", "--addr", addr)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != exitBind || !strings.Contains(string(out), "already") {
			t.Errorf("%s: exit %d, %s", addr, code, out)
		}
	}
}

// A wrong password will not get right by waiting: the runner says so, without it, instead of READY=1.
func TestRunnerThatIsRefusedExits78(t *testing.T) {
	redis := miniredis.RunT(t)
	redis.RequireAuth("right")
	cmd := appCommand(t, "work")
	cmd.Env = append(cmd.Env, "REDIS_URL=redis://:s3cret@"+redis.Addr())
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != exitConfig || !strings.Contains(string(out), "WRONGPASS") || strings.Contains(string(out), "s3cret") {
		t.Errorf("exit %d, %s", code, out)
	}
}

// One process is all that `app dev` needs: a photograph in, its thumbnail out.
func TestDevMakesAThumbnail(t *testing.T) {
	addr := freeAddr(t)
	cmd := appCommand(t, "dev", "--addr", addr)
	cmd.Env = append(cmd.Env, "REDIS_URL=", "TASK_BROKER_URL=", "TMPDIR="+t.TempDir())
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	log := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(stderr)
		log <- string(all)
	}()
	photo, err := os.ReadFile("../../pkg/app/testdata/video-001.jpeg")
	if err != nil {
		t.Fatal(err)
	}
	var job struct {
		ResultURL string `json:"result_url"`
	}
	ask := func(want int, do func() (*http.Response, error)) []byte {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			response, err := do()
			if err == nil {
				body, _ := io.ReadAll(response.Body)
				response.Body.Close()
				if response.StatusCode == want {
					return body
				}
				err = errors.New(string(body))
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	accepted := ask(http.StatusAccepted, func() (*http.Response, error) {
		return http.Post("http://"+addr+"/images", "image/jpeg", bytes.NewReader(photo))
	})
	if err := json.Unmarshal(accepted, &job); err != nil {
		t.Fatalf("%s: %v", accepted, err)
	}
	thumbnail := ask(http.StatusOK, func() (*http.Response, error) { return http.Get("http://" + addr + job.ResultURL) })
	if !bytes.HasPrefix(thumbnail, []byte("\xff\xd8")) {
		t.Errorf("%.20q is no JPEG", thumbnail)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	said := <-log
	if err := cmd.Wait(); err != nil {
		t.Errorf("after TERM: %v", err)
	}
	if !strings.Contains(said, inMemory) {
		t.Errorf("it does not say that jobs end with it:\n%s", said)
	}
}
