package supervisor

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// vital is what the kernel says of a worker for the metrics. Read outside of the loop.
type vital struct {
	cpu    time.Duration
	memory int64 // resident bytes
	files  int   // descriptors; -1: we may not look
}

// clockTick is the kernel's unit of CPU time in /proc, on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// vitalOf asks /proc; ok is false when the process is gone.
func vitalOf(id processID) (v vital, ok bool) {
	dir := "/proc/" + strconv.Itoa(id.PID)
	text, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return v, false
	}
	// pid (comm) state …: a comm may hold spaces and brackets. What follows has numbers from 3.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	field := func(number int) int64 {
		if number-3 >= len(fields) {
			return 0
		}
		n, _ := strconv.ParseInt(string(fields[number-3]), 10, 64)
		return n
	}
	if uint64(field(22)) != id.StartTime {
		return v, false // another one has its pid
	}
	v.cpu = time.Duration(field(14)+field(15)) * clockTick
	v.memory = field(24) * int64(os.Getpagesize())
	v.files = -1
	if st, err := os.Stat(dir + "/fd"); err == nil {
		if v.files = int(st.Size()); v.files == 0 { // a kernel before 6.2
			if names, err := os.ReadDir(dir + "/fd"); err == nil {
				v.files = len(names)
			}
		}
	}
	return v, true
}

// proportional reads the PSS of a process in bytes; 0 when it cannot be told. The kernel walks all its pages for that: some milliseconds a gigabyte.
func proportional(id processID) int64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(id.PID) + "/smaps_rollup")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			kb, _ := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
			return kb << 10
		}
	}
	return 0
}
