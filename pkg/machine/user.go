package machine

import (
	"fmt"
	"os/user"
	"strconv"
)

// LookupUser finds a user by name or number; a number needs no entry in the user database.
func LookupUser(name string) (*user.User, error) {
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

// LookupGroup gives the number of a group; a number needs no entry in the group database.
func LookupGroup(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("unknown group %q", name)
	}
	return strconv.Atoi(g.Gid)
}
