package holder

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"supervisor/pkg/sdnotify"
)

// maxStored bounds the store: a supervisor that stores without end must not take all descriptors with it.
const maxStored = 16384

// stored is a descriptor that we keep for the next supervisor.
type stored struct {
	name string
	fd   int
}

// inherited gives the sockets of a socket unit, which every supervisor gets first.
func inherited() []stored {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	var given []stored
	for i := range n {
		name := "unknown"
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		given = append(given, stored{name, 3 + i})
	}
	return given
}

// read works off all messages that there are.
func (h *holder) read() {
	for {
		m, ok := h.socket.TryRead()
		if !ok {
			return
		}
		if m.UID == os.Getuid() || m.UID == 0 { // who is one of them could kill us as well
			h.understand(&m)
		}
		m.Close() // BARRIER=1, and whatever was not stored
	}
}

// understand does what one message asks for, and repeats upwards what is for the one above us.
func (h *holder) understand(m *sdnotify.Message) {
	if m.State == "" {
		say("a message from process %d did not fit, or there are no descriptors left: dropped", m.PID)
	}
	var up []string
	for name, value := range m.Lines() {
		switch name {
		case "MAINPID":
			h.follow(value)
		case listening:
			if m.PID == h.main {
				h.listens()
			}
		case "FDSTORE":
			h.keep(m)
		case "FDSTOREREMOVE":
			h.remove(m.Get("FDNAME"))
		case "READY", "RELOADING", "MONOTONIC_USEC", "STOPPING", "STATUS", "EXTEND_TIMEOUT_USEC", "WATCHDOG":
			up = append(up, name+"="+value)
		}
	}
	if len(up) > 0 && h.above != "" {
		// One that does not read is no reason to stand still: the next message says more.
		_ = sdnotify.Send(h.above, strings.Join(up, "\n"))
	}
}

// follow makes another process the supervisor. It must descend from us: of another one we would never learn that it died.
func (h *holder) follow(value string) {
	pid, err := strconv.Atoi(value)
	_, died := h.dead[pid]
	switch {
	case pid == h.main:
	case err != nil || pid <= 1 || (!died && !descends(pid)):
		say("MAINPID=%s is not a process of ours: ignored", value)
	default:
		say("supervisor %d takes over from %d", pid, h.main)
		h.main = pid
		h.pin()
		h.listens() // it had handlers before it announced itself
	}
}

// keep stores the message's descriptors under its FDNAME. One that is there already is not stored twice.
func (h *holder) keep(m *sdnotify.Message) {
	name := m.Get("FDNAME")
	if name == "" {
		name = "stored" // systemd's name for those without
	}
	if err := checkName(name); err != nil {
		say("%v: not stored", err)
		return
	}
	for _, fd := range m.FDs {
		switch {
		case slices.ContainsFunc(h.store, func(s stored) bool { return s.name == name && same(s.fd, fd) }):
			unix.Close(fd)
		case len(h.store) >= maxStored:
			say("%d descriptors are stored: %s is not", maxStored, name)
			unix.Close(fd)
		default:
			h.store = append(h.store, stored{name, fd})
		}
	}
	m.FDs = nil
}

func (h *holder) remove(name string) {
	h.store = slices.DeleteFunc(h.store, func(s stored) bool {
		if s.name == name {
			unix.Close(s.fd)
		}
		return s.name == name
	})
}

// checkName refuses what cannot stand in LISTEN_FDNAMES.
func checkName(name string) error {
	if len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' || r == ':' }) {
		return fmt.Errorf("FDNAME=%.300q: must be printable ASCII without a colon, 255 bytes at most", name)
	}
	return nil
}

// same reports whether two descriptors are of one file, and opened for the same: the two ends of a pipe are one inode.
func same(a, b int) bool {
	var x, y unix.Stat_t
	if unix.Fstat(a, &x) != nil || unix.Fstat(b, &y) != nil || x.Dev != y.Dev || x.Ino != y.Ino {
		return false
	}
	modeA, _ := unix.FcntlInt(uintptr(a), unix.F_GETFL, 0)
	modeB, _ := unix.FcntlInt(uintptr(b), unix.F_GETFL, 0)
	return modeA&unix.O_ACCMODE == modeB&unix.O_ACCMODE
}
