//go:build !linux

package worker

import "net"

// unread: not known here, so a last answer may be lost to a client that sends on.
func unread(net.Conn) int { return 0 }

func queued(net.Listener) bool { return false }

func closeQueue(net.Listener) {}
