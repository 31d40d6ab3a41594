package supervisor

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// What the kernel says of this machine, of our cgroup and of our children.

// Usage reads the child's memory and CPU from /proc.
func (c *child) Usage() (usage, error) {
	proc, err := procfs.NewProc(c.pid)
	if err != nil {
		return usage{}, err
	}
	stat, err := proc.Stat()
	if err != nil {
		return usage{}, err
	}
	u := usage{memory: int64(stat.ResidentMemory())}
	threads, err := procfs.AllThreads(c.pid)
	if err != nil {
		return u, nil
	}
	for _, t := range threads {
		if sched, err := t.Schedstat(); err == nil {
			u.run += time.Duration(sched.RunningNanoseconds)
			u.delay += time.Duration(sched.WaitingNanoseconds)
		}
		if st, err := t.Stat(); err == nil && st.State == "R" {
			u.runnable = true
		}
	}
	return u, nil
}

// Catches reads whether the child has a handler for the signal.
func (c *child) Catches(sig syscall.Signal) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(c.pid) + "/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if hex, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			caught, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && caught&(1<<(uint(sig)-1)) != 0
		}
	}
	return false
}

// cgroupFile finds a file of our memory cgroup, of version 2 or 1.
func cgroupFile(v2, v1 string) (string, bool) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return "", false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		roots := []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}
		name := v2
		if parts[0] != "0" {
			if !strings.Contains(","+parts[1]+",", ",memory,") {
				continue
			}
			roots, name = []string{"/sys/fs/cgroup/memory"}, v1
		}
		for _, root := range roots {
			for _, dir := range []string{parts[2], "/"} { // in a container the path is the host's
				path := filepath.Join(root, dir, name)
				if _, err := os.Stat(path); err == nil {
					return path, true
				}
			}
		}
	}
	return "", false
}

// oomKills gives how many processes of our cgroup the kernel has killed for want of memory, 0 where it does not count them.
func oomKills() int64 {
	path, ok := cgroupFile("memory.events", "memory.oom_control")
	if !ok {
		return 0
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, _ := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			return kills
		}
	}
	return 0
}

// memoryLimit gives the memory limit of our cgroup in bytes, 0: none.
func memoryLimit() int64 {
	path, ok := cgroupFile("memory.max", "memory.limit_in_bytes")
	if !ok {
		return 0
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || limit >= 1<<60 { // "max", or version 1's largest number
		return 0
	}
	return limit
}

// memoryShare gives GOMEMLIMIT for a worker: 0.9 × the cgroup's limit / all workers, and not more than 0.9 × max_memory.
func (s *Supervisor) memoryShare(cfg *PoolConfig, generation int) int64 {
	var share int64
	if limit := memoryLimit(); limit > 0 {
		workers := 0
		whole := s.cfg
		if s.reload != nil && generation == s.reload.generation {
			whole = s.reload.cfg
		}
		for _, p := range whole.Pools {
			workers += p.Workers
		}
		share = limit / 10 * 9 / int64(max(1, workers))
	}
	if most := cfg.MaxMemory / 10 * 9; most > 0 && (share == 0 || most < share) {
		share = most
	}
	return share
}
