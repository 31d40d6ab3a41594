// Command watched measures what being watched costs: CPU per request, of the supervisor and its workers together, of one that nobody looks at and of one
// with a scrape of /metrics every second, a dashboard open, and the access log on. Interleaved rounds of wrk, medians, as a Markdown table.
//
//	go run ./bench/watched
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"supervisor/bench/rig"
)

var (
	rounds  = flag.Int("rounds", 9, "interleaved rounds")
	window  = flag.Duration("window", 4*time.Second, "how long each round asks each one")
	workers = flag.Int("workers", 2, "worker processes")
	path    = flag.String("path", "/health/worker", "what is asked for")
)

// token is as good as any: it is gone with the bench.
const token = "0123456789abcdef0123456789abcdef"

// contestants: each adds a way of being watched to none.
var contestants = []*contestant{
	{name: "nobody looks"},
	{name: "scrape every second", scraped: true},
	{name: "dashboard open", open: true},
	{name: "access log (JSON)", logged: true},
	{name: "all three", scraped: true, open: true, logged: true},
}

// contestant is a supervisor with the example application.
type contestant struct {
	name                  string
	scraped, open, logged bool

	server *rig.Server
	admin  string
	script string    // wrk's
	cost   []float64 // µs of CPU per request, by round
	rate   []float64 // requests/s
}

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "watched:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if _, err := exec.LookPath("wrk"); err != nil {
		return fmt.Errorf("%w; run: make deps", err)
	}
	bench, err := rig.New()
	if err != nil {
		return err
	}
	defer bench.Close()
	supervisor, err := bench.Build("./cmd/supervisor")
	if err != nil {
		return err
	}
	app, err := bench.Build("./cmd/app")
	if err != nil {
		return err
	}
	for i, c := range contestants {
		if err := c.start(bench, i, supervisor, app); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for round := range *rounds {
		order := slices.Clone(contestants)
		if round%2 == 1 {
			slices.Reverse(order) // who runs after whom should not matter
		}
		for _, c := range order {
			if err := c.measure(ctx); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, *rounds)
	}
	report()
	return nil
}

func (c *contestant) start(bench *rig.Bench, i int, supervisor, app string) error {
	addr, err := rig.FreeAddr()
	if err != nil {
		return err
	}
	if c.admin, err = rig.FreeAddr(); err != nil {
		return err
	}
	file := func(name string) string { return filepath.Join(bench.Dir, fmt.Sprintf("%d.%s", i, name)) }
	if err := os.WriteFile(file("token"), []byte(token), 0o600); err != nil {
		return err
	}
	c.script = file("lua")
	access := "off"
	if c.logged {
		access = "json"
	}
	config := fmt.Sprintf(`
[supervisor]
admin            = %q
admin_token_file = %q
accesslog        = %q
[pool.web]
command = [%q, "serve"]
bind    = [%q]
workers = %d
env     = { ACCESS_LOG = %q }
`, c.admin, file("token"), file("access"), app, addr, *workers, access)
	if err := os.WriteFile(file("toml"), []byte(config), 0o600); err != nil {
		return err
	}
	c.server, err = bench.Start(addr, supervisor, "-c", file("toml"))
	return err
}

// measure asks for one window, watched as this one is.
func (c *contestant) measure(ctx context.Context) error {
	watching, end := context.WithCancel(ctx)
	defer end()
	failed := make(chan error, 2)
	watchers := 0
	if c.open {
		watchers++
		go func() { failed <- c.look(watching) }()
	}
	if c.scraped {
		watchers++
		go func() { failed <- c.scrape(watching) }()
	}
	before, err := c.cpu()
	if err != nil {
		return err
	}
	requests, err := c.ask(ctx)
	if err != nil {
		return err
	}
	after, err := c.cpu()
	if err != nil {
		return err
	}
	end()
	for range watchers {
		if err := <-failed; err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	c.cost = append(c.cost, float64((after-before).Microseconds())/float64(requests))
	c.rate = append(c.rate, float64(requests)/window.Seconds())
	return nil
}

// cpu sums the supervisor's and its workers' CPU time.
func (c *contestant) cpu() (sum time.Duration, err error) {
	pids := append(rig.Children(c.server.PID()), c.server.PID())
	if len(pids) != *workers+1 {
		return 0, fmt.Errorf("%d processes, want %d\n%s", len(pids), *workers+1, c.server.Log())
	}
	for _, pid := range pids {
		u, err := rig.Read(pid)
		if err != nil {
			return 0, err
		}
		sum += u.CPU
	}
	return sum, nil
}

// ask runs wrk and gives the number of its answers; all of them must be good.
func (c *contestant) ask(ctx context.Context) (int, error) {
	const lua = `done = function(s) io.write(string.format('{"requests":%d,"status":%d,"broken":%d}\n',
s.requests, s.errors.status, s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout)) end`
	if err := os.WriteFile(c.script, []byte(lua), 0o600); err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, "wrk", "-t1", "-c32", "-d"+strconv.Itoa(int(window.Seconds()))+"s", "-s", c.script, "http://"+c.server.Addr+*path).Output()
	if err != nil {
		return 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	var said struct{ Requests, Status, Broken int }
	last := strings.TrimSpace(string(out))
	if err := json.Unmarshal([]byte(last[strings.LastIndexByte(last, '\n')+1:]), &said); err != nil {
		return 0, fmt.Errorf("wrk said %q: %w", out, err)
	}
	if said.Requests == 0 || said.Status+said.Broken > 0 {
		return 0, fmt.Errorf("of %d requests %d were answered with an error, %d not at all", said.Requests, said.Status, said.Broken)
	}
	return said.Requests, nil
}

// scrape asks for /metrics once a second.
func (c *contestant) scrape(ctx context.Context) error {
	for {
		body, err := c.get(ctx, "/metrics")
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, body)
		body.Close()
		if err == nil && n < 1000 {
			err = fmt.Errorf("%d bytes of metrics", n)
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// look has the dashboard open.
func (c *contestant) look(ctx context.Context) error {
	body, err := c.get(ctx, "/live")
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := io.Copy(io.Discard, body)
	if ctx.Err() == nil {
		return fmt.Errorf("the dashboard ended after %d bytes: %w", n, err)
	}
	if n < 1000 {
		return fmt.Errorf("%d bytes from the dashboard", n)
	}
	return nil
}

func (c *contestant) get(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.admin+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return resp.Body, nil
}

func report() {
	fmt.Printf("%s; loadavg at the end %s\n\n", rig.Machine(), rig.LoadAverage())
	fmt.Printf("%d rounds of %v each, %d workers, wrk -t1 -c32, GET %s; CPU of the supervisor and its workers, user and system; ÷ is the median of the rounds' ratios\n\n",
		*rounds, *window, *workers, *path)
	fmt.Println("| | CPU µs/request | lowest–highest | requests/s | CPU ÷ nobody looks |")
	fmt.Println("|---|--:|--:|--:|--:|")
	for _, c := range contestants {
		fmt.Printf("| %s | %.2f | %.2f–%.2f | %.0f | %.3f |\n", c.name, rig.Median(c.cost), slices.Min(c.cost), slices.Max(c.cost), rig.Median(c.rate),
			rig.Ratio(c.cost, contestants[0].cost))
	}
}
