package supervisor

import (
	"os"
	"strconv"
	"strings"
)

// What a worker finds in its environment beside the contracts of pkg/protocol.

// scrubbed are variables of our own life that no worker may see: the real systemd's sockets, tableflip's mark, our contracts.
func scrubbed(name string) bool {
	switch name {
	case "NOTIFY_SOCKET", "MAINPID", "FDSTORE":
		return true
	}
	for _, prefix := range []string{"LISTEN_", "WATCHDOG_", "TABLEFLIP_", "SUPERVISOR_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// baseEnv is our environment without what is ours, overlaid by env_file and env.
func baseEnv(cfg *PoolConfig) []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		_, inFile := cfg.EnvFromFile[name]
		_, inEnv := cfg.Env[name]
		if !scrubbed(name) && !inFile && !inEnv {
			env = append(env, pair)
		}
	}
	for name, value := range cfg.EnvFromFile {
		if _, inEnv := cfg.Env[name]; !inEnv {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range cfg.Env {
		env = append(env, name+"="+value)
	}
	return env
}

// addRuntimeEnv sizes a Go worker to its share of the machine, unless the environment says otherwise.
func addRuntimeEnv(env []string, l launch) []string {
	has := func(name string) bool {
		for _, pair := range env {
			if strings.HasPrefix(pair, name+"=") {
				return true
			}
		}
		return false
	}
	if !has("GOMAXPROCS") {
		n := l.pool.GOMAXPROCS
		if n == 0 {
			n = max(1, cores()/l.pool.Workers)
		}
		env = append(env, "GOMAXPROCS="+strconv.Itoa(n))
	}
	if l.memory > 0 && !has("GOMEMLIMIT") {
		env = append(env, "GOMEMLIMIT="+strconv.FormatInt(l.memory, 10))
	}
	if !has("GOTRACEBACK") {
		env = append(env, "GOTRACEBACK=all") // a dump shows every goroutine, not only the one that got the signal
	}
	return env
}

func setEnv(env []string, name, value string) []string {
	for i, pair := range env {
		if strings.HasPrefix(pair, name+"=") {
			env[i] = name + "=" + value
			return env
		}
	}
	return append(env, name+"="+value)
}
