package supervisor

import (
	"os"
	"strconv"

	"supervisor/pkg/config"
	"supervisor/pkg/machine"
)

// setUser resolves the pool's user and group, and adds the variables that a login would set.
func (s *stubSpec) setUser(cfg *config.Pool, env []string) ([]string, error) {
	if cfg.User == "" && cfg.Group == "" {
		return env, nil
	}
	s.SetUser, s.UID, s.GID = true, os.Getuid(), os.Getgid()
	if cfg.User != "" {
		u, err := machine.LookupUser(cfg.User)
		if err != nil {
			return nil, err
		}
		s.UID, _ = strconv.Atoi(u.Uid)
		s.GID, _ = strconv.Atoi(u.Gid)
		groups, err := u.GroupIds()
		if err == nil {
			for _, g := range groups {
				if gid, err := strconv.Atoi(g); err == nil {
					s.Groups = append(s.Groups, gid)
				}
			}
		}
		for name, value := range map[string]string{"HOME": u.HomeDir, "USER": u.Username, "LOGNAME": u.Username} {
			if _, set := cfg.Env[name]; !set && value != "" {
				env = setEnv(env, name, value)
			}
		}
	}
	if cfg.Group != "" {
		gid, err := machine.LookupGroup(cfg.Group)
		if err != nil {
			return nil, err
		}
		s.GID = gid
	}
	if len(s.Groups) == 0 {
		s.Groups = []int{s.GID}
	}
	return env, nil
}
