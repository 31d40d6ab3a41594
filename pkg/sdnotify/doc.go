// Package sdnotify speaks sd_notify(3), both ends of it. Linux only; standard library and golang.org/x/sys.
//
// A message is one datagram of lines NAME=VALUE, with descriptors beside it where it is about descriptors:
//
//	READY=1                          the service is up, or its reload has ended
//	RELOADING=1, MONOTONIC_USEC=N    a reload begins, at that time of CLOCK_MONOTONIC
//	STOPPING=1                       it ends
//	STATUS=TEXT                      one line for people
//	MAINPID=N                        another process is the main one from now on
//	WATCHDOG=1                       a beat
//	EXTEND_TIMEOUT_USEC=N            the deadline of a start, a reload or a stop is N microseconds from now
//	FDSTORE=1, FDNAME=NAME           keep these descriptors, and pass them to the next process of the service
//	FDPOLL=0                         beside it: keep them even if nothing can be heard of them
//	FDSTOREREMOVE=1, FDNAME=NAME     let go of them
//	BARRIER=1                        close this descriptor once all that came before has been worked off
//
// send.go is the service's end, listen.go the manager's: systemd, our holder, or the supervisor towards its workers.
package sdnotify

// The variables by which a manager tells a service about itself.
const (
	EnvSocket       = "NOTIFY_SOCKET"
	EnvWatchdogUsec = "WATCHDOG_USEC"
	EnvWatchdogPID  = "WATCHDOG_PID"
)
