package observe

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eventually bounds every wait: long enough for a machine with both cores busy, never waited out by a green run.
const eventually = 60 * time.Second

// prometheus is a real one, with a directory of its own.
type prometheus struct {
	url string
	cmd *exec.Cmd
	log string
}

// startPrometheus runs one with this configuration and these files beside it, on a free port, until the test ends. It stores little: the
// default would reserve tens of megabytes on the disk.
func startPrometheus(t testing.TB, config string, files map[string]string) *prometheus {
	t.Helper()
	program := need(t, "prometheus")
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("prometheus.yml", config)
	for _, name := range []string{"recording.yml", "alerts.yml"} {
		text, ok := files[name]
		if !ok {
			text = read(t, etcPrometheus, name)
		}
		write(name, text)
	}
	var last error
	for range 5 { // somebody else may take the port first
		p := &prometheus{log: filepath.Join(dir, "log")}
		if last = p.start(program, dir); last == nil {
			t.Cleanup(func() {
				p.stop()
				if t.Failed() {
					text, _ := os.ReadFile(p.log)
					t.Logf("Prometheus' log:\n%s", text[max(0, len(text)-4000):])
				}
			})
			return p
		}
		p.stop()
	}
	t.Fatal(last)
	return nil
}

func (p *prometheus) start(program, dir string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	l.Close()
	p.url = "http://" + address
	log, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(program, "--config.file", filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--storage.tsdb.max-block-chunk-segment-size", "1MB", "--storage.tsdb.wal-segment-size", "10MB", "--web.listen-address", address)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(eventually); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(p.url + "/-/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if syscall.Kill(p.cmd.Process.Pid, 0) != nil || strings.Contains(mustRead(p.log), "level=error") || time.Now().After(deadline) {
			return fmt.Errorf("prometheus is not ready: %s", mustRead(p.log))
		}
	}
}

func mustRead(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

func (p *prometheus) stop() {
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// ask decodes what the API has under data.
func (p *prometheus) ask(path string, values url.Values, data any) error {
	resp, err := http.PostForm(p.url+path, values)
	if values == nil {
		resp, err = http.Get(p.url + path)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", path, resp.Status, err)
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return json.Unmarshal(answer.Data, data)
}

// rule is one that Prometheus has read.
type rule struct {
	Type, Name, Query, State, LastError string
	Duration                            float64 // seconds of `for`
	Labels, Annotations                 map[string]string
}

func (p *prometheus) rules(t testing.TB) (rules []rule) {
	t.Helper()
	var answer struct{ Groups []struct{ Rules []rule } }
	if err := p.ask("/api/v1/rules", nil, &answer); err != nil {
		t.Fatal(err)
	}
	for _, g := range answer.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

// sample is one series and its value now.
type sample struct {
	Metric map[string]string
	Value  [2]any // seconds, and the value as text
}

func (p *prometheus) query(expr string) (samples []sample, err error) {
	var answer struct {
		ResultType string
		Result     json.RawMessage
	}
	if err := p.ask("/api/v1/query", url.Values{"query": {expr}}, &answer); err != nil {
		return nil, fmt.Errorf("%w: %s", err, expr)
	}
	if answer.ResultType == "scalar" {
		return []sample{{}}, nil
	}
	return samples, json.Unmarshal(answer.Result, &samples)
}
