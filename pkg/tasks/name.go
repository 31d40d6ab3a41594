package tasks

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

// A runner's name is unique for ever: `<boot id>/<pid namespace>/<pid>-<start time>/<n>`, where n counts the names of one process.
// Whoever shares the boot and the pid namespace can therefore prove that its process is gone: no such pid, or one that started
// at another time. Where the system does not tell these things the place is random, and only the lease tells.

// place is where this process is: what another must have in common with it to prove a death.
type place struct {
	machine string // boot id and pid namespace; "" if a death cannot be proved here
	process string // pid and start time
}

var (
	here      = findPlace()
	nameCount atomic.Int64
)

func newRunnerName() string {
	n := nameCount.Add(1)
	if here.machine == "" {
		return fmt.Sprintf("-/-/%d-%s/%d", os.Getpid(), newKey(), n)
	}
	return fmt.Sprintf("%s/%s/%d", here.machine, here.process, n)
}

// processOf returns the pid and start time in a runner's name, and reports whether it lived where this process can tell.
func processOf(runner string) (pid int, start string, near bool) {
	if here.machine == "" {
		return 0, "", false
	}
	rest, found := strings.CutPrefix(runner, here.machine+"/")
	if !found {
		return 0, "", false
	}
	process, _, _ := strings.Cut(rest, "/")
	number, start, ok := strings.Cut(process, "-")
	pid, err := strconv.Atoi(number)
	return pid, start, ok && err == nil && pid > 0 && start != ""
}

// provedDead reports whether the runner's process is certainly gone. False means alive or not to be known.
func provedDead(runner string) bool {
	pid, start, near := processOf(runner)
	return near && processGone(pid, start)
}
