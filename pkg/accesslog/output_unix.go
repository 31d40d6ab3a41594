//go:build unix

package accesslog

import "golang.org/x/sys/unix"

// write1 does not leave a write to its own devices: one that blocks could not be given up. Poll says first whether there is room.
func (o *output) write1(p []byte, over func() bool) (done int) {
	fd := int(o.file.Fd())
	for done < len(p) {
		if o.waits {
			if over() && !o.ready(fd, 0) {
				return done
			}
			if !o.ready(fd, int(lookEvery.Milliseconds())) {
				continue
			}
		}
		n, err := unix.Write(fd, p[done:])
		switch {
		case n > 0:
			done += n
		case err == unix.EINTR:
		case err == unix.EAGAIN: // somebody made it non-blocking, and took the room
			if over() {
				return done
			}
		default:
			return done // nobody reads it any more, the disk is full
		}
	}
	return done
}

// ready reports whether a write of pipeChunk bytes would not block. An error is for the write to find.
func (o *output) ready(fd, milliseconds int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, milliseconds)
	return n > 0 || err != nil && err != unix.EINTR
}
