package supervisor

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// Users and groups: who a worker runs as, and who owns a unix socket.

// setUser resolves the pool's user and group, and adds the variables that a login would set.
func (s *stubSpec) setUser(cfg *PoolConfig, env []string) ([]string, error) {
	if cfg.User == "" && cfg.Group == "" {
		return env, nil
	}
	s.SetUser, s.UID, s.GID = true, os.Getuid(), os.Getgid()
	if cfg.User != "" {
		u, err := lookupUser(cfg.User)
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
		gid, err := lookupGroup(cfg.Group)
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

// lookupUser finds a user by name or number; a number needs no entry in the user database.
func lookupUser(name string) (*user.User, error) {
	u, err := user.Lookup(name)
	if err == nil {
		return u, nil
	}
	if _, convErr := strconv.Atoi(name); convErr == nil {
		if u, err := user.LookupId(name); err == nil {
			return u, nil
		}
		return &user.User{Uid: name, Gid: name}, nil
	}
	return nil, fmt.Errorf("unknown user %q", name)
}

func lookupGroup(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("unknown group %q", name)
	}
	return strconv.Atoi(g.Gid)
}
