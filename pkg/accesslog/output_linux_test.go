package accesslog

import (
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Where pipeRoom says that there is room there is, whatever is in the pipe, and however it came there: a write that it allows never waits.
func TestAPipeTakesWhatItHasRoomFor(t *testing.T) {
	t.Parallel()
	for _, size := range []int{64 << 10, 1 << 20} {
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(ends[0])
		file := os.NewFile(uintptr(ends[1]), "pipe")
		defer file.Close()
		if _, err := unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, size); err != nil {
			t.Skip(err) // not allowed to this user
		}
		if got := pipeSize(file); got != size {
			t.Fatalf("a pipe of %d bytes has %d", size, got)
		}
		random, buffer, large := rand.New(rand.NewPCG(1, 2)), make([]byte, 1<<20), 0
		for range 20_000 {
			if room := pipeRoom(ends[1], size); room > 0 {
				if n, err := unix.Write(ends[1], buffer[:room]); n != room {
					t.Fatalf("%d of %d bytes found room: %v", n, room, err)
				}
				large++
			}
			for range random.IntN(4) { // pages that are not full
				unix.Write(ends[1], buffer[:1+random.IntN(4096)])
			}
			for range random.IntN(4) {
				unix.Read(ends[0], buffer[:1+random.IntN(40_000)])
			}
		}
		if large < 1000 {
			t.Errorf("only %d large writes", large)
		}
	}
}
