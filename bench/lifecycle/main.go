// Command lifecycle measures how long it takes to replace things: a worker, all workers, the supervisor itself, and what was killed; and what
// the clients feel of a reload.
//
//	go run ./bench/lifecycle                 about 4 minutes
//	go run ./bench/lifecycle -rounds 20      less exact
//
// The worker is cmd/app. Everything runs under a holder, as in a container; times are those at which the line stands in the log, to 1 ms.
package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"

	"supervisor/bench/rig"
	"supervisor/internal/loadtest"
)

var (
	workers = flag.Int("workers", 4, "workers")
	rounds  = flag.Int("rounds", 100, "how often each is done; the kill of a supervisor less than half as often")
	window  = flag.Duration("window", 2*time.Second, "how long each of the windows of the latency lasts")
	budget  = flag.Duration("budget", 8*time.Minute, "give up after this long")
)

// patience bounds each wait, and budget all of them.
func patience() time.Duration { return min(60*time.Second, *budget-time.Since(began)) }

var began = time.Now()

const (
	// settled is older than what counts as a young death, whose second would be followed by a back-off.
	settled = 1100 * time.Millisecond
	// pairs is how many windows of each kind take turns: so both see the same machine.
	pairs = 6
)

var (
	starts   = regexp.MustCompile(`worker starts `)
	isReady  = regexp.MustCompile(`worker ready .*"pid": (\d+)`)
	serves   = regexp.MustCompile(`pool serves`)
	leaves   = regexp.MustCompile(`worker gone`)
	reloaded = regexp.MustCompile(`reload done`)
	upgraded = regexp.MustCompile(`this supervisor is in charge`)
	follows  = regexp.MustCompile(`holder: supervisor \d+ takes over`)
	started  = regexp.MustCompile(`holder: supervisor (\d+) started`)
	revived  = regexp.MustCompile(`the supervisor before us died`)
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "lifecycle:", err)
		os.Exit(1)
	}
}

// series is what one kind of thing took.
type series struct {
	name string
	took []time.Duration
}

func (s *series) add(d time.Duration) { s.took = append(s.took, d) }

func (s *series) quantile(q float64) float64 {
	slices.Sort(s.took)
	return float64(s.took[max(0, int(math.Ceil(q*float64(len(s.took))))-1)].Microseconds()) / 1000
}

type program struct {
	bench           *rig.Bench
	supervisor, app string
}

// start starts a supervisor under a holder and waits for its first full set.
func (p program) start() (*rig.Server, error) {
	addr, err := rig.FreeAddr()
	if err != nil {
		return nil, err
	}
	s, err := p.bench.Start(addr, p.supervisor, "--holder", "-w", strconv.Itoa(*workers), "-b", addr, "--", p.app, "serve")
	if err != nil {
		return nil, err
	}
	_, err = s.Await(0, serves, 1, patience())
	return s, err
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func run() error {
	os.Setenv("APP_DEBUG", "1")
	bench, err := rig.New()
	if err != nil {
		return err
	}
	defer bench.Close()
	p := program{bench: bench}
	say("building")
	if p.supervisor, err = bench.Build("./cmd/supervisor"); err != nil {
		return err
	}
	if p.app, err = bench.Build("./cmd/app"); err != nil {
		return err
	}
	var table []*series
	for _, measure := range []func() ([]*series, error){p.oneMore, p.reload, p.refill, p.upgrade, p.recover} {
		rows, err := measure()
		if err != nil {
			return err
		}
		for _, row := range rows {
			say("%4.0f s  %s: p50 %.0f ms, p99 %.0f ms", time.Since(began).Seconds(), row.name, row.quantile(0.5), row.quantile(0.99))
		}
		table = append(table, rows...)
	}
	fmt.Printf("%s, %d workers, load average %s\n\n", rig.Machine(), *workers, rig.LoadAverage())
	fmt.Println("| | n | p50 | p99 | max |\n|---|--:|--:|--:|--:|")
	for _, row := range table {
		fmt.Printf("| %s | %d | %.0f ms | %.0f ms | %.0f ms |\n", row.name, len(row.took), row.quantile(0.5), row.quantile(0.99), row.quantile(1))
	}
	fmt.Println("\n| load, and what the reloads may | requests/s | p50 steady | p50 in reloads | p99 steady | p99 in reloads | ratio of p99 | reloads | failed |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, load := range []struct {
		name  string
		mix   loadtest.Mix
		surge string
	}{
		{"some: 20 clients that pause", loadtest.Mix{Paused: 20}, "100%"},
		{"the same, max_surge = 1", loadtest.Mix{Paused: 20}, "1"},
		{"as much as goes: 130 clients", loadtest.Mix{KeepAlive: 50, Paused: 50, OneShot: 20, Pipelined: 10}, "100%"},
		{"the same, max_surge = 1", loadtest.Mix{KeepAlive: 50, Paused: 50, OneShot: 20, Pipelined: 10}, "1"},
	} {
		say("%4.0f s  latency under load: %s", time.Since(began).Seconds(), load.name)
		os.Setenv("SUPERVISOR_POOL_WEB_MAX_SURGE", load.surge)
		row, err := p.latency(load.mix)
		if err != nil {
			return fmt.Errorf("load %q: %w", load.name, err)
		}
		fmt.Printf("| %s | %s |\n", load.name, row)
	}
	return nil
}

// oneMore: TTIN, again and again; TTOU in between.
func (p program) oneMore() ([]*series, error) {
	s, err := p.start()
	if err != nil {
		return nil, err
	}
	defer p.bench.Stop(s)
	row := &series{name: "a worker: spawn to ready"}
	for range *rounds {
		mark := s.Mark()
		syscall.Kill(s.PID(), syscall.SIGTTIN)
		spawned, err := s.Await(mark, starts, 1, patience())
		if err != nil {
			return nil, err
		}
		up, err := s.Await(mark, isReady, 1, patience())
		if err != nil {
			return nil, err
		}
		row.add(up.At.Sub(spawned.At))
		syscall.Kill(s.PID(), syscall.SIGTTOU)
		if _, err := s.Await(mark, leaves, 1, patience()); err != nil {
			return nil, err
		}
	}
	return []*series{row}, nil
}

// reload: HUP until the verdict, with nothing else to do.
func (p program) reload() ([]*series, error) {
	s, err := p.start()
	if err != nil {
		return nil, err
	}
	defer p.bench.Stop(s)
	row := &series{name: fmt.Sprintf("a reload of %d workers: HUP to verdict", *workers)}
	for range *rounds {
		took, err := ask(s, syscall.SIGHUP, reloaded)
		if err != nil {
			return nil, err
		}
		row.add(took)
	}
	return []*series{row}, nil
}

// ask sends a signal and measures until it says so.
func ask(s *rig.Server, sig syscall.Signal, verdict *regexp.Regexp) (time.Duration, error) {
	mark, began := s.Mark(), time.Now()
	syscall.Kill(s.PID(), sig)
	line, err := s.Await(mark, verdict, 1, patience())
	return line.At.Sub(began), err
}

// refill: kill -9 of one worker after the other until the next one is ready in its place.
func (p program) refill() ([]*series, error) {
	s, err := p.start()
	if err != nil {
		return nil, err
	}
	defer p.bench.Stop(s)
	row := &series{name: "refill: kill -9 of a worker until the next one is ready"}
	type process struct {
		pid   int
		since time.Time
	}
	var alive []process
	for i := range *workers {
		line, err := s.Await(0, isReady, i+1, patience())
		if err != nil {
			return nil, err
		}
		alive = append(alive, process{pidIn(isReady, line), time.Now()})
	}
	for range *rounds {
		victim := alive[0]
		time.Sleep(settled - time.Since(victim.since))
		mark, began := s.Mark(), time.Now()
		syscall.Kill(victim.pid, syscall.SIGKILL)
		line, err := s.Await(mark, isReady, 1, patience())
		if err != nil {
			return nil, err
		}
		row.add(line.At.Sub(began))
		alive = append(alive[1:], process{pidIn(isReady, line), time.Now()})
	}
	return []*series{row}, nil
}

func pidIn(re *regexp.Regexp, line rig.Line) int {
	pid, _ := strconv.Atoi(re.FindStringSubmatch(line.Text)[1])
	return pid
}

// upgrade: USR2 until the successor is in charge, with its own full set.
func (p program) upgrade() ([]*series, error) {
	s, err := p.start()
	if err != nil {
		return nil, err
	}
	defer p.bench.Stop(s)
	row := &series{name: "a self-upgrade: USR2 until the successor is in charge"}
	for range *rounds {
		mark := s.Mark()
		took, err := ask(s, syscall.SIGUSR2, upgraded)
		if err != nil {
			return nil, err
		}
		row.add(took)
		// The holder follows once the old one is gone; a signal sent before that would reach nobody.
		if _, err := s.Await(mark, follows, 1, patience()); err != nil {
			return nil, err
		}
	}
	return []*series{row}, nil
}

// recover: kill -9 of the supervisor. A holder waits before a second restart within a minute, so each kill gets a holder of its own.
func (p program) recover() ([]*series, error) {
	charge := &series{name: "kill -9 of the supervisor until the next one has its workers and sockets"}
	full := &series{name: "kill -9 of the supervisor until the next one has replaced all workers"}
	for range max(1, *rounds*2/5) {
		s, err := p.start()
		if err != nil {
			return nil, err
		}
		line, err := s.Await(0, started, 1, patience())
		if err != nil {
			return nil, err
		}
		mark, began := s.Mark(), time.Now()
		syscall.Kill(pidIn(started, line), syscall.SIGKILL)
		line, err = s.Await(mark, revived, 1, patience())
		if err != nil {
			return nil, err
		}
		charge.add(line.At.Sub(began))
		line, err = s.Await(mark, reloaded, 1, patience())
		if err != nil {
			return nil, err
		}
		full.add(line.At.Sub(began))
		p.bench.Stop(s)
	}
	return []*series{charge, full}, nil
}

// latency takes turns between windows without a reload and windows in which one reload follows the other, and gives medians of the windows:
// what else the machine does comes in bursts.
func (p program) latency(mix loadtest.Mix) (string, error) {
	s, err := p.start()
	if err != nil {
		return "", err
	}
	defer p.bench.Stop(s)
	var p50, p99 [2][]float64 // by whether reloads ran
	var ratios, rates []float64
	var failed int64
	reloads := 0
	for i := range 2 * pairs {
		reloading := i % 2
		load, err := loadtest.Start(context.Background(), loadtest.Plan{Target: s.Addr, Mix: mix, Duration: *window + time.Minute, Timeout: time.Minute})
		if err != nil {
			return "", err
		}
		for end := time.Now().Add(*window); time.Now().Before(end); {
			if reloading == 0 {
				time.Sleep(time.Until(end))
				break
			}
			if _, err := ask(s, syscall.SIGHUP, reloaded); err != nil {
				load.Stop()
				return "", err
			}
			reloads++
		}
		result := load.Stop()
		failed += result.AllFailed() + result.KeptAlive.ServerClosed()
		at := func(q float64) float64 { return float64(result.Latency.ValueAtQuantile(q)) / 1000 }
		p50[reloading], p99[reloading] = append(p50[reloading], at(50)), append(p99[reloading], at(99))
		if reloading == 0 {
			rates = append(rates, result.PerSecond())
			continue
		}
		ratios = append(ratios, p99[1][i/2]/p99[0][i/2])
		say("        %d of %d: p99 steady %.1f ms, in reloads %.1f ms, ratio %.2f; %d failed so far", i/2+1, pairs, p99[0][i/2], p99[1][i/2], ratios[i/2], failed)
	}
	return fmt.Sprintf("%.0f | %.1f ms | %.1f ms | %.1f ms | %.1f ms | %.2f | %d | %d", rig.Median(rates), rig.Median(p50[0]), rig.Median(p50[1]),
		rig.Median(p99[0]), rig.Median(p99[1]), rig.Median(ratios), reloads, failed), nil
}
