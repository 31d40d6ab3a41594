package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bundle is what one supervisor leaves to the next: a snapshot of what it knows, and the descriptors that belong to it, by name. It goes over a socket
// (a self-upgrade: sendBundle, receiveBundle) or lies in the descriptor store of whoever is above us (store.go).
//
// On the socket (SOCK_SEQPACKET) a bundle is a number of packets: {"names": […], "last": bool} with as many descriptors. The snapshot
// travels as one of them, a memfd called snapshotName, since it may be longer than a packet.
type bundle struct {
	snapshot snapshot
	fds      map[string]int
}

// Names of descriptors begin so, or are short ones (snapshot.go); whatever else the manager passes to us is a socket of a socket unit.
const descriptorPrefix = "supervisor."

// isOurs reports whether a descriptor from the manager is one that a supervisor has stored there.
func isOurs(name string) bool {
	return strings.HasPrefix(name, descriptorPrefix) || strings.HasPrefix(name, bindDescriptors) || strings.HasPrefix(name, workerDescriptors)
}

const snapshotName = descriptorPrefix + "state"

const (
	// The kernel takes 253 descriptors in one message.
	rightsAtOnce = 250
	maxPacket    = 64 << 10
	// A whole bundle of 2000 workers takes 20 ms here.
	bundlePatience = 10 * time.Second
)

// bundlePacket is one packet on the socket.
type bundlePacket struct {
	Names []string `json:"names"`
	Last  bool     `json:"last"`
}

// sendBundle writes a bundle. The descriptors stay the caller's.
func sendBundle(conn *os.File, b bundle) error {
	memory, err := newSnapshotMemory()
	if err != nil {
		return err
	}
	defer memory.Close()
	if err := memory.write(b.snapshot); err != nil {
		return err
	}
	names := append([]string{snapshotName}, slices.Sorted(maps.Keys(b.fds))...)
	fdOf := func(name string) int {
		if name == snapshotName {
			return memory.fd
		}
		return b.fds[name]
	}
	for chunk := range slices.Chunk(names, rightsAtOnce) {
		var fds []int
		for _, name := range chunk {
			fds = append(fds, fdOf(name))
		}
		text, err := json.Marshal(bundlePacket{chunk, chunk[len(chunk)-1] == names[len(names)-1]})
		if err != nil {
			return err
		}
		if err := sendPacket(conn, text, fds); err != nil {
			return fmt.Errorf("hand over %d descriptors: %w", len(names), err)
		}
	}
	return nil
}

// receiveBundle reads a bundle; its descriptors become the caller's.
func receiveBundle(conn *os.File) (_ bundle, err error) {
	b := bundle{fds: map[string]int{}}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	for last := false; !last; {
		text, fds, err := receivePacket(conn)
		if err != nil {
			return b, err
		}
		var p bundlePacket
		if err = json.Unmarshal(text, &p); err == nil && len(p.Names) != len(fds) {
			err = fmt.Errorf("%d descriptors for %d names: is the limit of open files too low?", len(fds), len(p.Names))
		}
		if err != nil {
			closeAll(fds)
			return b, fmt.Errorf("hand-over packet: %w", err)
		}
		for i, name := range p.Names {
			b.fds[name] = fds[i]
		}
		last = p.Last
	}
	return b, b.readSnapshot()
}

// readSnapshot reads the snapshot out of its memory, which stays among the descriptors: a successor goes on writing to it.
func (b *bundle) readSnapshot() error {
	fd, ok := b.fds[snapshotName]
	if !ok {
		return errors.New("the state of the supervisor before us is missing")
	}
	return (&snapshotMemory{fd: fd}).read(&b.snapshot)
}

// take gives a descriptor away, to be closed by the caller; -1 when there is none.
func (b *bundle) take(name string) int {
	fd, ok := b.fds[name]
	if !ok {
		return -1
	}
	delete(b.fds, name)
	return fd
}

// close closes what nobody took.
func (b *bundle) close() {
	for _, fd := range b.fds {
		unix.Close(fd)
	}
	b.fds = nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// sendPacket writes one packet, in the netpoller.
func sendPacket(conn *os.File, text []byte, fds []int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	conn.SetWriteDeadline(time.Now().Add(bundlePatience))
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), text, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		return sent != unix.EAGAIN && sent != unix.EINTR
	})
	return errors.Join(err, sent)
}

// receivePacket reads one packet, in the netpoller. io.EOF says that the other side is gone.
func receivePacket(conn *os.File) (text []byte, fds []int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	text = make([]byte, maxPacket)
	oob := make([]byte, unix.CmsgSpace(4*(rightsAtOnce+3)))
	var n, rights int
	var received error
	err = raw.Read(func(fd uintptr) bool {
		n, rights, _, _, received = unix.Recvmsg(int(fd), text, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		return received != unix.EAGAIN && received != unix.EINTR
	})
	if err := errors.Join(err, received); err != nil {
		return nil, nil, err
	}
	if n == 0 && rights == 0 {
		return nil, nil, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(oob[:rights])
	if err != nil {
		return nil, nil, err
	}
	for _, m := range messages {
		if more, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, more...)
		}
	}
	return text[:n], fds, nil
}
