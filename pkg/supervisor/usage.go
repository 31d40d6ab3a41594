package supervisor

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// usage is what the kernel says of a process.
type usage struct {
	memory   int64         // resident bytes
	run      time.Duration // CPU time of all threads
	delay    time.Duration // time that its threads waited for a CPU
	runnable bool          // a thread wants the CPU now
}

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
