// Command compare measures the throughput of the same small server bare, under fasthttp's own prefork, and under our
// supervisor, and of nginx's `return 200`: interleaved rounds of wrk, medians, as a Markdown table. All of it runs on one machine:
// wrk takes its share of the cores from each of them alike.
//
//	go run ./bench/compare                    9 rounds, about 6 minutes
//	go run ./bench/compare -rounds 3 -only bare,supervised
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"supervisor/bench/rig"
	"supervisor/internal/loadtest"
)

// contestant is one way to serve.
type contestant struct {
	name    string
	command func(addr string) ([]string, error)
	workers int // that must answer

	addr      string
	size      int          // bytes of one kept-alive answer
	perSecond [2][]float64 // by style, one per round
	errors    [2]int
	spread    [2]string
}

// styles are the two ways in which wrk asks.
var styles = [2]struct {
	name string
	args []string
	mix  loadtest.Mix
}{
	{"keep-alive", nil, loadtest.Mix{KeepAlive: 100}},
	{"one-shot", []string{"-H", "Connection: close"}, loadtest.Mix{OneShot: 50}},
}

var (
	rounds  = flag.Int("rounds", 9, "interleaved rounds")
	seconds = flag.Int("seconds", 3, "of each measurement")
	only    = flag.String("only", "", "names of contestants, with commas; default all")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
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

	contestants, err := choose(bench)
	if err != nil {
		return err
	}
	for _, c := range contestants {
		if err := c.start(bench); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for round := range *rounds {
		order := slices.Clone(contestants)
		if round%2 == 1 {
			slices.Reverse(order) // who runs after whom should not matter
		}
		for style := range styles {
			for _, c := range order {
				if err := c.measure(ctx, style); err != nil {
					return fmt.Errorf("%s, %s: %w", c.name, styles[style].name, err)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, *rounds)
	}
	for _, c := range contestants {
		for style := range styles {
			if err := c.count(ctx, style); err != nil {
				return fmt.Errorf("%s, %s: %w", c.name, styles[style].name, err)
			}
		}
	}
	report(contestants)
	return nil
}

// choose builds what the wanted contestants need.
func choose(bench *rig.Bench) ([]*contestant, error) {
	server, err := bench.Build("./bench/server")
	if err != nil {
		return nil, err
	}
	cores := runtime.NumCPU()
	mode := func(mode string) func(string) ([]string, error) {
		return func(addr string) ([]string, error) { return []string{server, mode, addr}, nil }
	}
	all := []*contestant{
		{name: "bare", workers: 1, command: mode("bare")},
		{name: "prefork", workers: cores, command: mode("prefork")},
		{name: "prefork, reuseport", workers: cores, command: mode("reuseport")},
		{name: "supervised", workers: cores, command: func(addr string) ([]string, error) {
			supervisor, err := bench.Build("./cmd/supervisor")
			return []string{supervisor, "-w", strconv.Itoa(cores), "-b", addr, "--", server, "supervised", addr}, err
		}},
		{name: "nginx", workers: cores, command: func(addr string) ([]string, error) {
			config, err := nginxConfig(bench.Dir, addr, cores)
			return []string{nginx(), "-c", config, "-p", bench.Dir}, err
		}},
	}
	if *only == "" {
		return all, nil
	}
	var chosen []*contestant
	for name := range strings.SplitSeq(*only, ",") {
		i := slices.IndexFunc(all, func(c *contestant) bool { return strings.ReplaceAll(c.name, ", ", "-") == name })
		if i < 0 {
			return nil, fmt.Errorf("contestant %q is unknown: bare, prefork, prefork-reuseport, supervised, nginx", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// nginx lives in /usr/sbin, which a user's PATH may lack.
func nginx() string {
	if path, err := exec.LookPath("nginx"); err == nil {
		return path
	}
	return "/usr/sbin/nginx"
}

func nginxConfig(dir, addr string, workers int) (string, error) {
	template, err := os.ReadFile("bench/nginx.conf")
	if err != nil {
		return "", fmt.Errorf("%w (run from the root of the repository)", err)
	}
	text := strings.NewReplacer("{WORKERS}", strconv.Itoa(workers), "{ADDR}", addr, "{DIR}", dir).Replace(string(template))
	path := filepath.Join(dir, "nginx.conf")
	return path, os.WriteFile(path, []byte(text), 0o644)
}

func (c *contestant) start(bench *rig.Bench) error {
	addr, err := rig.FreeAddr()
	if err != nil {
		return err
	}
	c.addr = addr
	command, err := c.command(addr)
	if err != nil {
		return err
	}
	if _, err := bench.Start(addr, command...); err != nil {
		return err
	}
	c.size, err = answerSize(addr)
	return err
}

// answerSize is the size of one answer on the wire: a comparison of different answers would be none.
func answerSize(addr string) (int, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	buf := make([]byte, 4096)
	size := 0
	for {
		n, err := conn.Read(buf)
		size += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return size, nil
		}
		if err != nil {
			return size, err
		}
	}
}

var (
	perSecond    = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	socketErrors = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	badStatus    = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
)

// measure is one run of wrk.
func (c *contestant) measure(ctx context.Context, style int) error {
	args := append([]string{"-t1", "-c100", fmt.Sprintf("-d%ds", *seconds)}, styles[style].args...)
	out, err := exec.CommandContext(ctx, "wrk", append(args, "http://"+c.addr+"/")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("wrk: %w\n%s", err, out)
	}
	found := perSecond.FindSubmatch(out)
	if found == nil {
		return fmt.Errorf("wrk says no Requests/sec:\n%s", out)
	}
	n, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		return err
	}
	c.perSecond[style] = append(c.perSecond[style], n)
	for _, pattern := range []*regexp.Regexp{socketErrors, badStatus} {
		if found := pattern.FindSubmatch(out); found != nil {
			for _, field := range found[1:] {
				n, _ := strconv.Atoi(string(field))
				c.errors[style] += n
			}
		}
	}
	return nil
}

// count has checked clients find out how the requests spread over the workers.
func (c *contestant) count(ctx context.Context, style int) error {
	if c.workers == 1 {
		c.spread[style] = "–"
		return nil
	}
	r, err := loadtest.Run(ctx, loadtest.Plan{Target: c.addr, Path: "/", Mix: styles[style].mix, Requests: 30_000, Duration: time.Minute,
		Check: loadtest.CheckStatus, GetOnly: true})
	if err != nil {
		return err
	}
	if r.AllFailed() > 0 {
		return fmt.Errorf("requests failed\n%s", r)
	}
	c.spread[style] = fmt.Sprintf("%.2f", r.Spread())
	if len(r.Workers) < c.workers {
		c.spread[style] = "∞" // somebody answered nothing
	}
	return nil
}

func report(contestants []*contestant) {
	fmt.Printf("%s\n", rig.Machine())
	fmt.Printf("medians of %d interleaved rounds of %d s, wrk -t1 -c100 on the same machine; ×: median of the ratios round by round;\nspread: most by fewest answers per worker\n", *rounds, *seconds)
	for style := range styles {
		fmt.Printf("\n| %s | requests/s | lowest–highest |", styles[style].name)
		// The ratios that have a meaning: to bare, and to the prefork that we want to match.
		references := slices.DeleteFunc(slices.Clone(contestants), func(c *contestant) bool { return c.name == "supervised" })
		for _, ref := range references {
			fmt.Printf(" × %s |", ref.name)
		}
		fmt.Printf(" spread | errors | answer |\n|---|--:|--:|%s--:|--:|--:|\n", strings.Repeat("--:|", len(references)))
		for _, c := range contestants {
			all := slices.Sorted(slices.Values(c.perSecond[style]))
			fmt.Printf("| %s | %.0f | %.0f–%.0f |", c.name, rig.Median(all), all[0], all[len(all)-1])
			for _, ref := range references {
				fmt.Printf(" %.2f |", rig.Ratio(c.perSecond[style], ref.perSecond[style]))
			}
			fmt.Printf(" %s | %d | %d B |\n", c.spread[style], c.errors[style], c.size)
		}
	}
}
