package machine

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Cores gives the processors that we may use: the cgroup's quota counts.
func Cores() int { return runtime.GOMAXPROCS(0) }

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

// OOMKills gives how many processes of our cgroup the kernel has killed for want of memory, 0 where it does not count them.
func OOMKills() int64 {
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

// MemoryLimit gives the memory limit of our cgroup in bytes, 0: none.
func MemoryLimit() int64 {
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
