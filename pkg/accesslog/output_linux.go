package accesslog

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize gives how many bytes a pipe holds, 0 if nobody knows.
func pipeSize(file *os.File) int {
	n, err := unix.FcntlInt(file.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return 0
	}
	return n
}

// pipeRoom gives how many bytes a pipe takes for certain, and in one piece; 0: ask poll. A pipe holds pages, not bytes, of which two that follow each other
// are more than half full: with a quarter of its bytes in it almost half of its pages are free.
func pipeRoom(fd, holds int) int {
	if holds == 0 {
		return 0
	}
	used, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil || used > holds/4 {
		return 0
	}
	return min(holds/4, largeChunk)
}
