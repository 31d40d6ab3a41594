package main

import (
	"fmt"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"supervisor/bench/rig"
)

// series is one measurement of each round.
type series struct {
	took     time.Duration // all rounds together
	jobs     int
	commands []float64 // per job, by round
}

func (s *series) add(c cost, jobs int) {
	n := float64(jobs)
	s.took += c.took
	s.jobs += jobs
	s.commands = append(s.commands, float64(c.commands)/n)
}

func report(all []*contestant, figures *table, bare []string, took time.Duration) {
	fmt.Printf("%s\n", rig.Machine())
	fmt.Printf("%s; rueidis %s; asynq %s, go-redis %s, PoolSize %d (0: its default); loadavg at the end %s\n", redisVersion(), version("github.com/redis/rueidis"),
		version("github.com/hibiken/asynq"), version("github.com/redis/go-redis/v9"), *pool, rig.LoadAverage())
	fmt.Printf("medians of %d interleaved rounds (lowest–highest), %s in all; payload %d B, ", *rounds, took.Round(time.Second), payloadSize)
	if *keep > 0 {
		fmt.Printf("result %d B kept for %s", len(result), *keep)
	} else {
		fmt.Printf("no results kept")
	}
	fmt.Printf(";\n%d jobs a round, handlers that do nothing, concurrency %d; unix socket, a new redis-server for each measurement, AOF everysec unless the row says else (what waits in piles: off);\n÷: median of the ratios round by round, where there are rounds\n\n", *jobs, *concurrency)

	fmt.Print("| |")
	for _, c := range all {
		fmt.Printf(" %s |", c.name)
	}
	fmt.Printf(" tasks ÷ asynq |\n|---|%s--:|\n", strings.Repeat("--:|", len(all)))

	figures.print(all)

	single := func(name, format string, of func(*contestant) float64) {
		fmt.Printf("| %s |", name)
		for _, c := range all {
			if v := of(c); v >= 0 {
				fmt.Printf(" "+format+" |", v)
			} else {
				fmt.Print(" – |")
			}
		}
		if a, b := of(all[0]), of(all[1]); a >= 0 && b >= 0 {
			fmt.Printf(" %.3g |\n", a/b)
		} else {
			fmt.Print(" |\n")
		}
	}
	// What a lone job costs from enqueue to end, without what its runners would have asked for meanwhile anyway. Where that is most
	// of it, the difference drowns: slow polls of many lanes, fast polls of many runners.
	lone := func(s series, idle cost, lanes int) float64 {
		var commands float64
		for i := range s.commands {
			commands += s.commands[i] * float64(s.jobs) / float64(len(s.commands))
		}
		idling := float64(idle.commands) * s.took.Seconds() / idle.took.Seconds()
		if lanes > 1 || idling > commands*3/4 {
			return -1
		}
		return (commands - idling) / float64(s.jobs)
	}
	single("Redis commands/job, lone, enqueue to end, net of idling; 1 runner", "%.1f", func(c *contestant) float64 { return lone(c.lone, c.idle1, c.lanes) })
	single(fmt.Sprintf("… %d runners", crowd), "%.1f", func(c *contestant) float64 { return lone(c.loneCrowd, c.idleCrowd, 1) })
	for _, p := range []int{50, 99} {
		single(fmt.Sprintf("enqueue to handler, idle, 1 runner, p%d, ms", p), "%.2f", func(c *contestant) float64 { return percentile(c.latency1, p) })
		single(fmt.Sprintf("… %d runners, p%d, ms", crowd, p), "%.2f", func(c *contestant) float64 { return percentile(c.latencyCrowd, p) })
	}
	single("idle, 1 runner: Redis commands/s", "%.1f", func(c *contestant) float64 { return float64(c.idle1.commands) / c.idle1.took.Seconds() })
	single(fmt.Sprintf("… %d runners", crowd), "%.0f", func(c *contestant) float64 { return float64(c.idleCrowd.commands) / c.idleCrowd.took.Seconds() })
	single(fmt.Sprintf("idle, %d runners: Redis CPU, ms/s", crowd), "%.1f", func(c *contestant) float64 {
		return float64(c.idleCrowd.cpu.Microseconds()) / 1000 / c.idleCrowd.took.Seconds()
	})
	fmt.Printf("\n| redis-benchmark, 50 connections, payload %d B | commands/s | Redis CPU µs/command |\n|---|--:|--:|\n%s\n", payloadSize, strings.Join(bare, "\n"))
	fmt.Printf("\nlatency samples, all rounds together (1 runner, %d runners):", crowd)
	for _, c := range all {
		fmt.Printf(" %s %d, %d;", c.name, len(c.latency1), len(c.latencyCrowd))
	}
	fmt.Printf(" asynq's with 1 runner come from %d queues side by side,\neach with a server of its own: one takes half a second. –: drowns in the polls; asynq's scripts are the same in both columns.\nEvery job's handler began exactly once, and both libraries' books agree.\n", all[1].lanes)
}

func redisVersion() string {
	out, err := exec.Command("redis-server", "--version").Output()
	fields := strings.Fields(string(out))
	if err != nil || len(fields) < 3 {
		return "redis unknown"
	}
	return "redis-server " + strings.TrimPrefix(fields[2], "v=")
}

// version of a module that this program was built with.
func version(module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == module {
				return m.Version
			}
		}
	}
	return "unknown"
}

// percentile in ms.
func percentile(all []time.Duration, p int) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return float64(sorted[(len(sorted)-1)*p/100].Microseconds()) / 1000
}
