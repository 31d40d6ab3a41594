package worker

import (
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// notifier speaks sd_notify(3). A nil notifier and one whose other end is gone swallow everything: nothing here is worth
// stopping a worker for.
type notifier struct {
	mu   sync.Mutex
	conn *net.UnixConn
}

// notifyPatience bounds a send into a full socket, in case its reader stands still.
const notifyPatience = 100 * time.Millisecond

// notifyTries: on a starved machine the deadline may be over before the write begins, and nobody says READY=1 a second time.
const notifyTries = 20

func dialNotify(address string) *notifier {
	if address == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"}) // "@…" is abstract to package net, too
	if err != nil {
		complain("notify: %v", err)
		return nil
	}
	return &notifier{conn: conn}
}

// send sends one datagram of assignments.
func (n *notifier) send(state string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for range notifyTries {
		n.conn.SetWriteDeadline(time.Now().Add(notifyPatience))
		if _, err := n.conn.Write([]byte(state)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// oneLine keeps a text from smuggling in further assignments.
func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }
