//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the app itself: a process of its own, with signals and an exit code.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS_APP") == "1" {
		main()
	}
	os.Exit(m.Run())
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
