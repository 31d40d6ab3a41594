package machine

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Listener is a listening TCP socket of this network namespace.
type Listener struct {
	Inode   uint64
	Address netip.AddrPort
}

// stateListen is TCP_LISTEN in /proc/net/tcp.
const stateListen = "0A"

// TCPListeners reads /proc/net/tcp and tcp6.
func TCPListeners() ([]Listener, error) {
	var found []Listener
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			f := strings.Fields(lines.Text()) // sl local_address rem_address st … uid timeout inode
			if len(f) < 10 || f[3] != stateListen {
				continue
			}
			address, ok := kernelAddress(f[1])
			inode, err := strconv.ParseUint(f[9], 10, 64)
			if ok && err == nil {
				found = append(found, Listener{Inode: inode, Address: address})
			}
		}
	}
	return found, nil
}

// kernelAddress reads 0100007F:1F90: words of 32 bits in the machine's order (little-endian wherever we run), then the port.
func kernelAddress(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	number, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	ip, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip, uint16(number)), ok
}

// UnixListener finds the socket that was bound to a path and listens.
func UnixListener(path string) (inode uint64, ok bool) {
	const acceptsConnections = 1 << 16 // __SO_ACCEPTCON
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return 0, false
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		f := strings.SplitN(lines.Text(), " ", 8) // Num RefCount Protocol Flags Type St Inode Path
		if len(f) < 8 {
			continue
		}
		flags, _ := strconv.ParseUint(f[3], 16, 64)
		inodeAndPath := strings.Fields(strings.Join(f[6:], " "))
		if flags&acceptsConnections == 0 || len(inodeAndPath) < 2 || !strings.HasSuffix(lines.Text(), " "+path) {
			continue
		}
		if inode, err := strconv.ParseUint(inodeAndPath[0], 10, 64); err == nil {
			return inode, true
		}
	}
	return 0, false
}

// SocketHolders gives the processes that have a socket open. Those of other users are seen by root only.
func SocketHolders(inode uint64) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && HoldsSocket(pid, inode) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// HoldsSocket reports whether a process has a socket open.
func HoldsSocket(pid int, inode uint64) bool {
	want := fmt.Sprintf("socket:[%d]", inode)
	for _, fd := range openFiles(pid) {
		if link, err := os.Readlink(fd); err == nil && link == want {
			return true
		}
	}
	return false
}

func openFiles(pid int) []string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	paths := make([]string, len(entries))
	for i, e := range entries {
		paths[i] = filepath.Join(dir, e.Name())
	}
	return paths
}

// LockHolder gives the pid of the supervisor that holds a pidfile's lock, 0 if there is none. It asks /proc whether that
// process has the file open and locked, and does not try the lock: one that just starts would fail of it.
func LockHolder(pidfile string) (int, error) {
	if pidfile == "" {
		return 0, nil
	}
	data, err := os.ReadFile(pidfile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 0 {
		return 0, nil // being written, or no pidfile
	}
	info, err := os.Stat(pidfile)
	if err != nil {
		return 0, err
	}
	if _, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); errors.Is(err, fs.ErrPermission) {
		return 0, fmt.Errorf("cannot see whether pid %d is the running instance: run the check as its user or root", pid)
	}
	for _, fd := range openFiles(pid) {
		if opened, err := os.Stat(fd); err == nil && os.SameFile(info, opened) && isLocked(pid, filepath.Base(fd)) {
			return pid, nil
		}
	}
	return 0, nil
}

// isLocked reports whether a lock is held through an open file of a process.
func isLocked(pid int, fd string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	return err == nil && bytes.Contains(data, []byte("\nlock:"))
}

// NameProcesses names processes for an error.
func NameProcesses(pids []int) string {
	if len(pids) == 0 {
		return "another process (root sees which)"
	}
	const most = 4
	var names []string
	for i, pid := range pids {
		if i == most {
			names = append(names, fmt.Sprintf("%d more", len(pids)-most))
			break
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		names = append(names, fmt.Sprintf("pid %d (%s)", pid, strings.TrimSpace(string(comm))))
	}
	return strings.Join(names, ", ")
}

// PeerPID gives the process that made the socket at the other end of a connection listen: the last resort where /proc
// does not know the socket, because it was renamed or belongs to another network namespace.
func PeerPID(conn syscall.RawConn) int {
	pid := 0
	conn.Control(func(fd uintptr) {
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
