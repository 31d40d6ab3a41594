package main

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// raw measures redis-benchmark's own commands on such a server, of 50 connections: what Redis can do at all here.
func raw(dir string) (lines []string, err error) {
	server, err := startRedis(dir, aof)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	sha, err := server.ask(`SCRIPT LOAD "return 1"`)
	if err != nil {
		return nil, err
	}
	const n = 100_000
	payload := strings.Repeat("x", payloadSize)
	for _, command := range [][]string{{"SET", "k:__rand_int__", payload}, {"LPUSH", "list", payload}, {"RPOP", "list"}, {"EVALSHA", sha, "0"}} {
		var text []byte
		start := time.Now()
		spent, err := server.measure(func() (err error) {
			text, err = exec.Command("redis-benchmark", append([]string{"-s", server.socket, "-n", strconv.Itoa(n), "-r", strconv.Itoa(n), "-c", "50", "-q", "--csv"}, command...)...).CombinedOutput()
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("redis-benchmark: %w\n%s", err, text)
		}
		lines = append(lines, fmt.Sprintf("| %s | %.0f | %.1f |", command[0], n/time.Since(start).Seconds(), float64(spent.cpu.Microseconds())/n))
	}
	return lines, nil
}
