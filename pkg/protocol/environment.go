package protocol

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// What a worker finds in its environment. The first group is systemd's, so that any program that speaks socket activation
// and sd_notify is a worker; the second is ours.
const (
	EnvListenPID    = "LISTEN_PID"     // the worker's own pid
	EnvListenFDs    = "LISTEN_FDS"     // how many sockets follow from FirstFD
	EnvListenNames  = "LISTEN_FDNAMES" // their names, joined by colons, as in the config
	EnvNotifySocket = "NOTIFY_SOCKET"  // abstract datagram socket, one per worker
	EnvWatchdogUsec = "WATCHDOG_USEC"  // heartbeat_timeout in microseconds
	EnvWatchdogPID  = "WATCHDOG_PID"   // the worker's own pid

	EnvFDs        = "SUPERVISOR_FDS"        // name:fd pairs, see FDs
	EnvInstance   = "SUPERVISOR_INSTANCE"   // random, kept over a self-upgrade
	EnvWorker     = "SUPERVISOR_WORKER"     // <pool>.<slot>.<serial>, see WorkerID
	EnvGeneration = "SUPERVISOR_GENERATION" // counts reloads, from 1
	EnvPools      = "SUPERVISOR_POOLS"      // how many workers there are in all, see Pools
)

// FirstFD is the number of the first passed socket, as in sd_listen_fds(3).
const FirstFD = 3

// Names in SUPERVISOR_FDS. The adopt sockets of a bind are AdoptRx(bind) and AdoptTx(bind).
const (
	FDControl    = "control"
	FDScoreboard = "scoreboard"
)

// AdoptRx names the end of a bind's adopt socket from which ready workers take connections.
func AdoptRx(bind string) string { return "adopt." + bind + ".rx" }

// AdoptTx names the end of a bind's adopt socket into which a draining worker sends connections.
func AdoptTx(bind string) string { return "adopt." + bind + ".tx" }

// FDs is the value of SUPERVISOR_FDS: descriptor numbers by name, written as name:fd,name:fd.
type FDs map[string]int

// ParseFDs reads the value of SUPERVISOR_FDS.
func ParseFDs(s string) (FDs, error) {
	fds := FDs{}
	if s == "" {
		return fds, nil
	}
	for _, pair := range strings.Split(s, ",") {
		name, number, ok := strings.Cut(pair, ":")
		fd, err := strconv.Atoi(number)
		if !ok || name == "" || err != nil || fd < FirstFD {
			return nil, fmt.Errorf("%s: %q is not name:fd", EnvFDs, pair)
		}
		fds[name] = fd
	}
	return fds, nil
}

// String gives the value of SUPERVISOR_FDS, sorted by name.
func (f FDs) String() string {
	pairs := make([]string, 0, len(f))
	for name, fd := range f {
		pairs = append(pairs, name+":"+strconv.Itoa(fd))
	}
	sort.Strings(pairs)
	return strings.Join(pairs, ",")
}

// WorkerID names one worker process: the pool, the slot in it, and a serial that counts the pool's processes from 1.
type WorkerID struct {
	Pool         string
	Slot, Serial int
}

// ParseWorkerID reads the value of SUPERVISOR_WORKER.
func ParseWorkerID(s string) (WorkerID, error) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || parts[0] == "" {
		return WorkerID{}, fmt.Errorf("%s: %q is not pool.slot.serial", EnvWorker, s)
	}
	slot, err := strconv.Atoi(parts[1])
	if err != nil {
		return WorkerID{}, fmt.Errorf("%s: %q: slot: %w", EnvWorker, s, err)
	}
	serial, err := strconv.Atoi(parts[2])
	if err != nil {
		return WorkerID{}, fmt.Errorf("%s: %q: serial: %w", EnvWorker, s, err)
	}
	return WorkerID{parts[0], slot, serial}, nil
}

func (id WorkerID) String() string {
	return id.Pool + "." + strconv.Itoa(id.Slot) + "." + strconv.Itoa(id.Serial)
}

// PoolSize is how many workers a pool has, and how many more a replacement may add for a while. No surge: it is never replaced.
type PoolSize struct {
	Name           string
	Workers, Surge int
}

// Pools is the value of SUPERVISOR_POOLS: what the configuration says of all pools, written as web=4+4,jobs=2+2. TTIN and TTOU do not
// change it. Who shares something with the others, such as a database's connections, finds here how many they are.
type Pools []PoolSize

// ParsePools reads the value of SUPERVISOR_POOLS.
func ParsePools(s string) (Pools, error) {
	var pools Pools
	if s == "" {
		return nil, nil
	}
	for _, part := range strings.Split(s, ",") {
		name, numbers, ok1 := strings.Cut(part, "=")
		workers, surge, ok2 := strings.Cut(numbers, "+")
		n, err1 := strconv.ParseUint(workers, 10, 16)
		more, err2 := strconv.ParseUint(surge, 10, 16)
		if name == "" || !ok1 || !ok2 || err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%s: %q is not name=workers+surge", EnvPools, part)
		}
		pools = append(pools, PoolSize{name, int(n), int(more)})
	}
	return pools, nil
}

// String gives the value of SUPERVISOR_POOLS.
func (p Pools) String() string {
	parts := make([]string, 0, len(p))
	for _, size := range p {
		parts = append(parts, size.Name+"="+strconv.Itoa(size.Workers)+"+"+strconv.Itoa(size.Surge))
	}
	return strings.Join(parts, ",")
}
