package worker

import (
	"context"
	"errors"
	"net"
	"time"

	"supervisor/pkg/profile"
	"supervisor/pkg/protocol"
)

// profilePatience bounds the writing of a profile: its reader is the supervisor, which passes it on at once or hangs up.
const profilePatience = 30 * time.Second

var errAskerGone = errors.New("who asked for the profile is gone")

// profile answers VerbProfile over conn. It runs beside the loop: commands go on, and a drain does not wait for it.
func (w *Worker) profile(c protocol.Command, conn net.Conn) {
	if conn == nil {
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		conn.Read(make([]byte, 1)) // nobody writes there: it returns at the end of either side
		cancel(errAskerGone)
	}()
	conn.SetWriteDeadline(time.Now().Add(profilePatience))
	if protocol.BeginProfile(conn) != nil {
		return
	}
	kind, d, err := c.ProfileArgs()
	var taken []byte
	if err == nil {
		taken, err = profile.Take(ctx, profile.Kind(kind), d)
	}
	conn.SetWriteDeadline(time.Now().Add(profilePatience))
	protocol.WriteProfile(conn, taken, err)
}
