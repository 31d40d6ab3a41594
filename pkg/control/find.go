package control

import (
	"path/filepath"
	"strings"
)

// SocketName is the socket's file in a runtime directory.
const SocketName = "supervisor.sock"

// Off is the value of the setting control that means none.
const Off = "off"

// EnvSocket is the variable in which a client may find the socket's path.
const EnvSocket = "SUPERVISOR_SOCKET"

// DefaultPath gives the socket's path where the configuration names none: in systemd's RuntimeDirectory=, else in the user's
// runtime directory. Without either it is "": no control socket.
func DefaultPath(getenv func(string) string) string {
	first, _, _ := strings.Cut(getenv("RUNTIME_DIRECTORY"), ":") // systemd lists several
	for _, dir := range []string{first, getenv("XDG_RUNTIME_DIR")} {
		if filepath.IsAbs(dir) {
			return filepath.Join(dir, SocketName)
		}
	}
	return ""
}

// Find gives the path of the socket, where no flag names it: what the configuration file says (configured; "" when no file was named, or
// when it leaves the default), SUPERVISOR_SOCKET, SUPERVISOR_CONTROL (by which the daemon itself may have been told), the default. how says
// where the path came from, for errors. Without any of them path is "".
func Find(configured, file string, getenv func(string) string) (path, how string) {
	for _, c := range []struct{ path, how string }{
		{configured, file},
		{getenv(EnvSocket), EnvSocket},
		{getenv("SUPERVISOR_CONTROL"), "SUPERVISOR_CONTROL"},
		{DefaultPath(getenv), "the default"},
	} {
		if c.path != "" && c.path != Off {
			return strings.TrimPrefix(c.path, "unix:"), c.how
		}
	}
	return "", ""
}
