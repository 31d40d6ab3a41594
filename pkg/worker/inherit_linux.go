package worker

import (
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// inherit reads the environment of sd_listen_fds(3) and ours, and removes it, so that this program's own children do not believe
// that it is meant for them. What cannot be used is said in one line on stderr, and done without.
func inherit() inheritance {
	defer func() {
		for _, name := range []string{
			protocol.EnvListenPID, protocol.EnvListenFDs, protocol.EnvListenNames, protocol.EnvNotifySocket,
			protocol.EnvWatchdogUsec, protocol.EnvWatchdogPID,
			protocol.EnvFDs, protocol.EnvInstance, protocol.EnvWorker, protocol.EnvGeneration, protocol.EnvPools,
		} {
			os.Unsetenv(name)
		}
	}()

	var in inheritance
	pid := os.Getenv(protocol.EnvListenPID)
	if pid != "" && pid != strconv.Itoa(os.Getpid()) {
		complain("%s is %s and we are %d: started through a shell without exec? nothing inherited", protocol.EnvListenPID, pid, os.Getpid())
		return in
	}
	in.notify = os.Getenv(protocol.EnvNotifySocket)
	if usec, err := strconv.ParseInt(os.Getenv(protocol.EnvWatchdogUsec), 10, 64); err == nil {
		if pid := os.Getenv(protocol.EnvWatchdogPID); pid == "" || pid == strconv.Itoa(os.Getpid()) {
			in.watchdog = time.Duration(usec) * time.Microsecond
		}
	}
	if pid != "" {
		in.sockets = inheritSockets()
	}

	fds, err := protocol.ParseFDs(os.Getenv(protocol.EnvFDs))
	if err != nil {
		complain("%v: running without a supervisor", err)
		return in
	}
	if fd, ok := fds[protocol.FDControl]; ok {
		if in.control = openSocket(fd, protocol.FDControl); in.control == nil {
			return in
		}
	}
	if fd, ok := fds[protocol.FDScoreboard]; ok {
		unix.CloseOnExec(fd)
		if in.board, err = scoreboard.Attach(fd); err != nil {
			complain("%v: running unscored: timeout, max_requests and keepalive have no effect", err)
		}
	}
	in.adopt = map[string]adoptPair{}
	for name, fd := range fds {
		name, isAdopt := strings.CutPrefix(name, "adopt.")
		if !isAdopt {
			continue
		}
		if bind, ok := strings.CutSuffix(name, ".rx"); ok {
			in.adopt[bind] = adoptPair{openSocket(fd, name), in.adopt[bind].tx}
		} else if bind, ok := strings.CutSuffix(name, ".tx"); ok {
			in.adopt[bind] = adoptPair{in.adopt[bind].rx, openSocket(fd, name)}
		}
	}
	in.instance = os.Getenv(protocol.EnvInstance)
	in.generation, _ = strconv.Atoi(os.Getenv(protocol.EnvGeneration)) // 0 when absent, as without a supervisor
	if in.pools, err = protocol.ParsePools(os.Getenv(protocol.EnvPools)); err != nil {
		complain("%v", err)
	}
	if s := os.Getenv(protocol.EnvWorker); s != "" {
		if in.id, err = protocol.ParseWorkerID(s); err != nil {
			complain("%v", err)
		}
	}
	return in
}

func inheritSockets() []socket {
	n, _ := strconv.Atoi(os.Getenv(protocol.EnvListenFDs))
	names := strings.Split(os.Getenv(protocol.EnvListenNames), ":")
	var sockets []socket
	for i := range n {
		fd := protocol.FirstFD + i
		name := strconv.Itoa(fd)
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), name)
		if f == nil {
			continue
		}
		ln, err := net.FileListener(f) // a non-blocking duplicate
		f.Close()
		if err != nil {
			complain("inherited fd %d (%s) is not a listening socket: %v", fd, name, err)
			continue
		}
		sockets = append(sockets, socket{name: name, index: i, Listener: ln})
	}
	return sockets
}

// openSocket makes an inherited descriptor close-on-exec and known to the netpoller. It gives nil when there is no socket.
func openSocket(fd int, name string) *os.File {
	unix.CloseOnExec(fd)
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		complain("fd %d (%s): %v", fd, name, err)
		return nil
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else os.NewFile leaves it out of the netpoller
		complain("fd %d (%s): %v", fd, name, err)
		return nil
	}
	return os.NewFile(uintptr(fd), name)
}
