package config

import (
	"io/fs"
	"time"

	"supervisor/pkg/operator"
)

// Config is all that the supervisor is told: built-in defaults, overlaid by the file, the environment and the flags (see Load).
type Config struct {
	PIDFile   string // "": none
	ErrorLog  string // the supervisor's log and the workers' stderr; "-": stderr
	AccessLog string // the workers' stdout; "-": stdout
	LogLevel  string // debug, info, warning or error
	LogFormat string // console or json: of the supervisor's own lines
	Control   string // path of the control socket; "": by the environment (see ControlPath), "off": none
	Admin     Bind   // where health endpoints are answered; without a network: nowhere
	// AdminTokenFile holds the operator's token; "": SUPERVISOR_ADMIN_TOKEN does, or there is none.
	AdminTokenFile string
	AdminToken     operator.Token `json:"-"` // see ReadAdminToken; "": nobody may do more than ask for health

	Service string // what we are part of: the label service of the metrics
	Dev     Dev
	Pools   []*Pool

	// sources says where each value came from, by its dotted key: for --print-config and for the errors of --check-config.
	sources map[string]origin
}

// Defaults gives every setting its built-in value. The one pool is what a pool has before anybody says anything.
func Defaults() *Config {
	return &Config{
		ErrorLog:  "-",
		AccessLog: "-",
		LogLevel:  "info",
		LogFormat: LogConsole,
		Service:   "backend",
		Dev:       devDefaults(),
		Pools: []*Pool{{
			Name:             "web",
			Backlog:          2048,
			Sockets:          SocketsPerSlot,
			Workers:          1,
			MaxUnavailable:   1,
			MaxSurge:         Surge{Percent: 100},
			Timeout:          30 * time.Second,
			TimeoutGrace:     10 * time.Second,
			BootTimeout:      30 * time.Second,
			HeartbeatTimeout: 30 * time.Second,
			GracefulTimeout:  30 * time.Second,
			KeepAlive:        5 * time.Second,
			OrphanTimeout:    time.Minute,
			Ready:            ReadyNotify, // Load makes it exec for a pool without bind
			Replace:          ReplaceRolling,
			Output:           OutputPrefix,
			Umask:            -1,
		}},
	}
}

// Pool is one [pool.NAME] section: workers that run the same command on the same sockets.
type Pool struct {
	Name    string
	Command []string // argv; looked up in PATH when it holds no slash
	Bind    []Bind
	Backlog int
	Sockets SocketMode
	// NonBlock sets O_NONBLOCK on the sockets before a worker gets them.
	NonBlock bool

	Workers           int
	GOMAXPROCS        int // 0: cores / workers, at least 1
	WorkerConnections int // 0: no limit

	MaxRequests       int // 0: no limit
	MaxRequestsJitter int
	MaxLifetime       time.Duration // 0: no limit
	MaxLifetimeJitter time.Duration
	MaxMemory         int64 // bytes of resident memory of the worker's process group's leader; 0: no limit
	MaxUnavailable    int   // workers that drain at once because of a limit

	Bake     time.Duration // how long the first worker of a new generation is judged before the others follow; 0: not at all
	Health   Health        // how it is asked whether it is well
	MaxSurge Surge         // processes beyond the pool's size during a reload

	Timeout          time.Duration // from a handler's start to its first byte; 0: none
	TimeoutGrace     time.Duration
	BootTimeout      time.Duration
	HeartbeatTimeout time.Duration // 0: none
	GracefulTimeout  time.Duration
	DrainDelay       time.Duration // between TERM and the stop, for load balancers to look away; 0: none
	KeepAlive        time.Duration
	OrphanTimeout    time.Duration

	Ready   ReadyMode
	Replace ReplaceMode
	Output  OutputMode

	User, Group  string // "": the supervisor's own
	Umask        int    // -1: the supervisor's own
	Chdir        string // "": the supervisor's own
	Env          map[string]string
	EnvFile      string
	EnvFromFile  map[string]string // the content of EnvFile when it was loaded
	RlimitNofile uint64            // 0: the supervisor's own

	Hooks Hooks
}

// Hooks are commands that run beside the workers, as the pool's user, in its directory and environment. Empty: none.
type Hooks struct {
	BeforeStart  []string // before the pool's first worker; its failure ends the start
	BeforeReload []string // before the first worker of a new generation; its failure ends the reload
	AfterReload  []string // when the new generation is in force
	OnWorkerExit []string // after a worker is gone
}

// Health is how the first worker of a new generation is asked whether it is well: at most one of both. Zero: not at all.
type Health struct {
	Path    string   // GET over a connection to this very worker: 200 to 399 is well
	Command []string // exit status 0 is well
}

// IsZero reports whether nothing is asked.
func (h Health) IsZero() bool { return h.Path == "" && len(h.Command) == 0 }

// Surge is a number of processes: Count, or else Percent of the workers.
type Surge struct{ Count, Percent int }

// Of gives the number for a pool of so many workers, at least 1. The zero Surge is 100 %.
func (s Surge) Of(workers int) int {
	switch {
	case s.Count > 0:
		return s.Count
	case s.Percent == 0:
		return max(1, workers)
	}
	return max(1, (workers*s.Percent+99)/100)
}

// Bind is one address of a pool.
type Bind struct {
	Name    string // in LISTEN_FDNAMES and SUPERVISOR_FDS
	Network string // "tcp", "tcp4", "tcp6", "unix" or "systemd"
	Address string // host:port, a path, or the name of a socket inherited from systemd

	// For unix sockets.
	Mode        fs.FileMode // 0600 by default
	User, Group string      // "": the supervisor's own
}

// SocketMode says how a pool's workers share an address.
type SocketMode string

// ReadyMode says when a worker counts as ready.
type ReadyMode string

// ReplaceMode says how a pool's workers are replaced.
type ReplaceMode string

// OutputMode says what becomes of a worker's output.
type OutputMode string

// Values of the setting logformat.
const (
	LogConsole = "console" // a line for people
	LogJSON    = "json"    // an object a line
)

// Values of the settings sockets, ready, replace and output.
const (
	SocketsPerSlot SocketMode = "slots"  // one socket per worker slot, spread evenly by the kernel
	SocketsShared  SocketMode = "shared" // one socket for the pool

	ReadyNotify ReadyMode = "notify" // when it sends READY=1
	ReadyExec   ReadyMode = "exec"   // when it was executed

	ReplaceRolling ReplaceMode = "rolling" // the new worker is ready before the old one drains
	ReplaceNever   ReplaceMode = "never"   // only when its own section changed, and then the old one stops first

	OutputPrefix  OutputMode = "prefix"  // lines, each with the worker's name in front
	OutputRaw     OutputMode = "raw"     // lines as they are
	OutputJSON    OutputMode = "json"    // one JSON object a line
	OutputInherit OutputMode = "inherit" // not captured: the supervisor's own stdout and stderr
)
