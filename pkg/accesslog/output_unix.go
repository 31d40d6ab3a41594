//go:build unix

package accesslog

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// write1 does not leave a write to its own devices: one that blocks could not be given up. First it is asked whether there is room.
func (o *output) write1(p []byte, over func() bool) (done int) {
	fd := int(o.file.Fd())
	for done < len(p) {
		piece := p[done:]
		if o.waits {
			room := pipeRoom(fd, o.holds)
			if room == 0 {
				if over() && !o.ready(fd, 0) {
					return done
				}
				if !o.ready(fd, int(lookEvery.Milliseconds())) {
					continue
				}
				room = pipeChunk
			}
			piece = wholeLines(piece, room)
		}
		n, err := unix.Write(fd, piece)
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

// wholeLines gives as many lines as have at most so many bytes, at least one.
func wholeLines(lines []byte, most int) []byte {
	if len(lines) <= most {
		return lines
	}
	if end := bytes.LastIndexByte(lines[:most], '\n'); end >= 0 {
		return lines[:end+1]
	}
	return lines[:most]
}

// ready reports whether a write of pipeChunk bytes would not block. An error is for the write to find.
func (o *output) ready(fd, milliseconds int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, milliseconds)
	return n > 0 || err != nil && err != unix.EINTR
}
