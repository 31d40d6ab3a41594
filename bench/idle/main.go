// Command idle measures what a supervisor costs that has nothing to do: memory and CPU of the master, and of its workers, with
// 1, 10 and 100 of them, from /proc over ten seconds.
//
//	go run ./bench/idle
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"supervisor/bench/rig"
)

var (
	counts = flag.String("workers", "1,10,100", "numbers of workers, with commas")
	window = flag.Duration("window", 10*time.Second, "how long to look")
)

// settle is how long a started supervisor is left alone before it counts as idle.
const settle = 3 * time.Second

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
}

func run() error {
	bench, err := rig.New()
	if err != nil {
		return err
	}
	defer bench.Close()
	supervisor, err := bench.Build("./cmd/supervisor")
	if err != nil {
		return err
	}
	server, err := bench.Build("./bench/server")
	if err != nil {
		return err
	}
	fmt.Printf("%s\n\n", rig.Machine())
	fmt.Println("| workers | started after | master CPU | master RSS | threads | fds | CPU per worker | RSS per worker | PSS of all |")
	fmt.Println("|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for field := range strings.SplitSeq(*counts, ",") {
		n, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		if err := measure(bench, supervisor, server, n); err != nil {
			return fmt.Errorf("%d workers: %w", n, err)
		}
	}
	return nil
}

func measure(bench *rig.Bench, supervisor, server string, n int) error {
	addr, err := rig.FreeAddr()
	if err != nil {
		return err
	}
	start := time.Now()
	s, err := bench.Start(addr, supervisor, "-w", strconv.Itoa(n), "-b", addr, "--", server, "supervised", addr)
	if err != nil {
		return err
	}
	defer bench.Stop(s)
	for len(rig.Children(s.PID())) < n {
		if time.Since(start) > time.Minute {
			return fmt.Errorf("only %d after a minute\n%s", len(rig.Children(s.PID())), s.Log())
		}
		time.Sleep(10 * time.Millisecond)
	}
	there := time.Since(start)
	time.Sleep(settle)

	workers := rig.Children(s.PID())
	before, err := readAll(append([]int{s.PID()}, workers...))
	if err != nil {
		return err
	}
	time.Sleep(*window)
	after, err := readAll(append([]int{s.PID()}, workers...))
	if err != nil {
		return fmt.Errorf("somebody left: %w\n%s", err, s.Log())
	}
	master := after[0]
	var workerCPU time.Duration
	var rss, pss int64
	for i := range after {
		pss += after[i].PSS
		if i > 0 {
			workerCPU += after[i].CPU - before[i].CPU
			rss += after[i].RSS
		}
	}
	percent := func(cpu time.Duration) string { return fmt.Sprintf("%.2f %%", 100*cpu.Seconds()/window.Seconds()) }
	fmt.Printf("| %d | %.2f s | %s | %.1f MiB | %d | %d | %s | %.1f MiB | %.1f MiB |\n", n, there.Seconds(), percent(master.CPU-before[0].CPU),
		mib(master.RSS), master.Threads, master.FDs, percent(workerCPU/time.Duration(n)), mib(rss/int64(n)), mib(pss))
	return nil
}

func readAll(pids []int) ([]rig.Usage, error) {
	usages := make([]rig.Usage, len(pids))
	for i, pid := range pids {
		var err error
		if usages[i], err = rig.Read(pid); err != nil {
			return nil, err
		}
	}
	return usages, nil
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
