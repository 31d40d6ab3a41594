package config

import (
	"sort"

	"supervisor/pkg/machine"
)

// setting is one entry of the configuration. The tables, two below and devSettings, drive the file's keys, the variables, the flags, --print-config
// and the test of etc/supervisor.toml: a new setting is one line here and its default in Defaults.
type setting[Section any] struct {
	key      string
	kind     valueKind
	flag     string // on the command line, without its dashes; "": none
	variable string // of the environment, besides SUPERVISOR_…; "": none
	field    func(*Section) any
}

// supervisorSettings are the keys of [supervisor]; also SUPERVISOR_<KEY> in the environment.
var supervisorSettings = []setting[Config]{
	{"pidfile", textKind{}, "pid", "", func(c *Config) any { return &c.PIDFile }},
	{"errorlog", textKind{required: true}, "error-logfile", "", func(c *Config) any { return &c.ErrorLog }},
	{"accesslog", textKind{required: true}, "access-logfile", "", func(c *Config) any { return &c.AccessLog }},
	{"loglevel", wordKind{"debug", "info", "warning", "error"}, "log-level", "", func(c *Config) any { return &c.LogLevel }},
	{"logformat", wordKind{LogConsole, LogJSON}, "log-format", "", func(c *Config) any { return &c.LogFormat }},
	{"control", socketPathKind{}, "", "", func(c *Config) any { return &c.Control }},
	{"admin", adminKind{}, "", "", func(c *Config) any { return &c.Admin }},
	{"admin_token_file", textKind{}, "", "", func(c *Config) any { return &c.AdminTokenFile }},
	{"service", textKind{required: true}, "", "", func(c *Config) any { return &c.Service }},
}

// MaxWorkers is a guard against a slip of the finger: each worker is a process, and with sockets = "slots" a socket per address.
const MaxWorkers = 2000 // a steering program has two instructions for each, and the kernel takes 4096

// poolSettings are the keys of [pool.NAME]; also SUPERVISOR_POOL_<NAME>_<KEY> in the environment.
var poolSettings = []setting[Pool]{
	{"command", argvKind{}, "", "", func(p *Pool) any { return &p.Command }},
	{"bind", bindsKind{}, "bind", "", func(p *Pool) any { return &p.Bind }},
	{"backlog", countKind{min: 1, max: 1 << 20}, "", "", func(p *Pool) any { return &p.Backlog }},
	{"sockets", wordKind{string(SocketsPerSlot), string(SocketsShared)}, "", "", func(p *Pool) any { return &p.Sockets }},
	{"nonblock", boolKind{}, "", "", func(p *Pool) any { return &p.NonBlock }},

	{"workers", countKind{min: 1, max: MaxWorkers, auto: machine.Cores}, "workers", "WORKERS", func(p *Pool) any { return &p.Workers }},
	{"gomaxprocs", countKind{max: 1 << 16}, "", "", func(p *Pool) any { return &p.GOMAXPROCS }},
	{"worker_connections", countKind{max: 1 << 30}, "", "", func(p *Pool) any { return &p.WorkerConnections }},

	{"max_requests", countKind{max: 1 << 40}, "max-requests", "MAX_REQUESTS", func(p *Pool) any { return &p.MaxRequests }},
	{"max_requests_jitter", countKind{max: 1 << 40}, "max-requests-jitter", "MAX_REQUESTS_JITTER", func(p *Pool) any { return &p.MaxRequestsJitter }},
	{"max_lifetime", durationKind{}, "", "", func(p *Pool) any { return &p.MaxLifetime }},
	{"max_lifetime_jitter", durationKind{}, "", "", func(p *Pool) any { return &p.MaxLifetimeJitter }},
	{"max_memory", sizeKind{}, "", "", func(p *Pool) any { return &p.MaxMemory }},
	{"max_unavailable", countKind{min: 1, max: MaxWorkers}, "", "", func(p *Pool) any { return &p.MaxUnavailable }},

	{"timeout", durationKind{}, "timeout", "WORKER_TIMEOUT", func(p *Pool) any { return &p.Timeout }},
	{"timeout_grace", durationKind{}, "", "", func(p *Pool) any { return &p.TimeoutGrace }},
	{"bake", durationKind{}, "", "", func(p *Pool) any { return &p.Bake }},
	{"health", healthKind{}, "", "", func(p *Pool) any { return &p.Health }},
	{"max_surge", surgeKind{}, "", "", func(p *Pool) any { return &p.MaxSurge }},

	{"boot_timeout", durationKind{positive: true}, "", "", func(p *Pool) any { return &p.BootTimeout }},
	{"heartbeat_timeout", durationKind{}, "", "", func(p *Pool) any { return &p.HeartbeatTimeout }},
	{"graceful_timeout", durationKind{positive: true}, "graceful-timeout", "GRACEFUL_TIMEOUT", func(p *Pool) any { return &p.GracefulTimeout }},
	{"drain_delay", durationKind{}, "", "", func(p *Pool) any { return &p.DrainDelay }},
	{"keepalive", durationKind{}, "keep-alive", "KEEPALIVE", func(p *Pool) any { return &p.KeepAlive }},
	{"orphan_timeout", durationKind{}, "", "", func(p *Pool) any { return &p.OrphanTimeout }},

	{"ready", wordKind{string(ReadyNotify), string(ReadyExec)}, "ready", "", func(p *Pool) any { return &p.Ready }},
	{"replace", wordKind{string(ReplaceRolling), string(ReplaceNever)}, "", "", func(p *Pool) any { return &p.Replace }},
	{
		"output", wordKind{string(OutputPrefix), string(OutputRaw), string(OutputJSON), string(OutputInherit)}, "", "",
		func(p *Pool) any { return &p.Output },
	},

	{"user", textKind{}, "user", "", func(p *Pool) any { return &p.User }},
	{"group", textKind{}, "group", "", func(p *Pool) any { return &p.Group }},
	{"umask", umaskKind{}, "umask", "", func(p *Pool) any { return &p.Umask }},
	{"chdir", textKind{}, "chdir", "", func(p *Pool) any { return &p.Chdir }},
	{"rlimit_nofile", limitKind{}, "", "", func(p *Pool) any { return &p.RlimitNofile }},
	{"env_file", textKind{}, "", "", func(p *Pool) any { return &p.EnvFile }},
	{"hooks.before_start", argvKind{optional: true}, "", "", func(p *Pool) any { return &p.Hooks.BeforeStart }},
	{"hooks.before_reload", argvKind{optional: true}, "", "", func(p *Pool) any { return &p.Hooks.BeforeReload }},
	{"hooks.after_reload", argvKind{optional: true}, "", "", func(p *Pool) any { return &p.Hooks.AfterReload }},
	{"hooks.on_worker_exit", argvKind{optional: true}, "", "", func(p *Pool) any { return &p.Hooks.OnWorkerExit }},
	{"env", envKind{}, "env", "", func(p *Pool) any { return &p.Env }},
}

// find gives the setting of a key, or nil.
func find[S any](table []setting[S], key string) *setting[S] {
	for i := range table {
		if table[i].key == key {
			return &table[i]
		}
	}
	return nil
}

func keys[S any](table []setting[S]) []string {
	names := make([]string, len(table))
	for i, s := range table {
		names[i] = s.key
	}
	return names
}

// FlagNames gives the long names of the flags that set something, sorted: what Sources.Flags may hold.
func FlagNames() []string {
	var names []string
	for _, s := range supervisorSettings {
		if s.flag != "" {
			names = append(names, s.flag)
		}
	}
	for _, s := range devSettings {
		if s.flag != "" {
			names = append(names, s.flag)
		}
	}
	for _, s := range poolSettings {
		if s.flag != "" {
			names = append(names, s.flag)
		}
	}
	sort.Strings(names)
	return names
}
