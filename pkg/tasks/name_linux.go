package tasks

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func findPlace() place {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return place{}
	}
	namespace, err := os.Readlink("/proc/self/ns/pid") // pid:[4026531836]
	if err != nil {
		return place{}
	}
	inode := strings.Trim(strings.TrimPrefix(namespace, "pid:"), "[]")
	start, state, err := processStart(os.Getpid())
	// A /proc of another pid namespace would tell about other processes: ours must be in it under our own number.
	if self, e := os.Readlink("/proc/self"); e != nil || self != strconv.Itoa(os.Getpid()) || err != nil || dead(state) {
		return place{}
	}
	id := strings.ReplaceAll(strings.TrimSpace(string(boot)), "-", "")
	if !wordOf(id, "") || !wordOf(inode, "") {
		return place{}
	}
	return place{machine: id + "/" + inode, process: strconv.Itoa(os.Getpid()) + "-" + start}
}

// processGone reports whether no process has this pid, or another one that started at another time. A zombie runs nothing any more.
func processGone(pid int, start string) bool {
	// Not by /proc alone: mounted with hidepid it hides the living.
	if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
		return true
	}
	now, state, err := processStart(pid)
	return err == nil && (now != start || dead(state))
}

func dead(state byte) bool { return state == 'Z' || state == 'X' || state == 'x' }

// processStart reads fields 3 and 22 of /proc/<pid>/stat. The name in field 2 may hold anything, so count from its end.
func processStart(pid int) (start string, state byte, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return "", 0, errors.New("short stat")
	}
	return string(fields[19]), fields[0][0], nil
}
