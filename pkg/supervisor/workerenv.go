package supervisor

import (
	"os"
	"strconv"
	"strings"

	"supervisor/pkg/config"
	"supervisor/pkg/machine"
	"supervisor/pkg/protocol"
)

// What a worker finds in its environment beside the contracts of pkg/protocol.

// baseEnv is our environment without what is ours, overlaid by env_file and env.
func baseEnv(cfg *config.Pool) []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		_, inFile := cfg.EnvFromFile[name]
		_, inEnv := cfg.Env[name]
		if !config.Reserved(name) && !inFile && !inEnv {
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
			n = max(1, machine.Cores()/l.pool.Workers)
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

// memoryShare gives GOMEMLIMIT for a worker: 0.9 × the cgroup's limit / all workers, and not more than 0.9 × max_memory.
func (s *Supervisor) memoryShare(cfg *config.Pool, generation int) int64 {
	var share int64
	if limit := machine.MemoryLimit(); limit > 0 {
		workers := 0
		for _, p := range s.configOf(generation).Pools {
			workers += p.Workers
		}
		share = limit / 10 * 9 / int64(max(1, workers))
	}
	if most := cfg.MaxMemory / 10 * 9; most > 0 && (share == 0 || most < share) {
		share = most
	}
	return share
}

// configOf gives the configuration that a generation belongs to: the one in force, or the one of the reload under way.
func (s *Supervisor) configOf(generation int) *config.Config {
	if s.reload != nil && generation == s.reload.generation {
		return s.reload.cfg
	}
	return s.cfg
}

func poolSizes(cfg *config.Config) protocol.Pools {
	sizes := make(protocol.Pools, 0, len(cfg.Pools))
	for _, p := range cfg.Pools {
		size := protocol.PoolSize{Name: p.Name, Workers: p.Workers}
		if p.Replace != config.ReplaceNever {
			size.Surge = p.MaxSurge.Of(p.Workers)
		}
		sizes = append(sizes, size)
	}
	return sizes
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
