package protocol

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The control channel is a SOCK_SEQPACKET pair per worker. A packet is one command: words joined by spaces, at most
// MaxCommand bytes. Its EOF tells the worker that the supervisor is gone. An unknown verb is ignored, so that either side may be
// the newer one.

// Verbs that the supervisor sends.
const (
	// VerbDrain stops accepting and ends the process when its last connection is gone. Arguments: how (DrainMove or
	// DrainClose), and the deadline in milliseconds.
	VerbDrain = "drain"
	// VerbUndrain takes a drain back: accept again. No argument.
	VerbUndrain = "undrain"
	// VerbAdopt says whether to take connections that others send. Argument: "on" or "off". A worker starts with off.
	VerbAdopt = "adopt"
	// VerbGive moves some idle connections to workers that adopt, and serves on. Argument: how many at most.
	VerbGive = "give"
	// VerbServe brings a connection to be served like one from the listener. Argument: the bind. The connection's descriptor comes
	// along (SendServe, Receive).
	VerbServe = "serve"
	// VerbLame says that the supervisor will stop soon: serve on and accept, but every answer says Connection: close, and readiness
	// fails. VerbUndrain takes it back. No argument.
	VerbLame = "lame"
	// VerbCommit says that the generation of this worker is now the one in force: without the supervisor it serves on for
	// orphan_timeout, instead of leaving at once. No argument.
	VerbCommit = "commit"
	// VerbReopen asks to reopen log files. No argument.
	VerbReopen = "reopen"
	// VerbDump asks for all goroutine stacks on stderr. No argument.
	VerbDump = "dump"
	// VerbProfile asks for a profile of the process, over a stream whose far end comes along (SendProfile; profile.go has what is written
	// there). Arguments: its kind, as in package profile, and for how many milliseconds; 0 where that means nothing.
	VerbProfile = "profile"
)

// Verbs that a worker sends.
const (
	// VerbHello says that the worker reads its control channel; without it the supervisor falls back to signals. No argument.
	VerbHello = "hello"
	// VerbRecycle asks to be replaced. Argument: the reason, one of the Recycle constants.
	VerbRecycle = "recycle"
)

// Arguments of VerbDrain.
const (
	DrainMove  = "move"  // idle connections move to the workers that stay
	DrainClose = "close" // nobody stays: the last answer on each connection says Connection: close
)

// Arguments of VerbRecycle.
const (
	RecycleMaxRequests = "max_requests" // the limit in the scoreboard is reached
	RecycleTimeout     = "timeout"      // a handler still runs timeout_grace after its deadline
)

// MaxCommand bounds a packet of the control channel, in bytes.
const MaxCommand = 512

// Command is one packet of the control channel.
type Command struct {
	Verb string
	Args []string
}

// ParseCommand reads one packet.
func ParseCommand(packet []byte) (Command, error) {
	words := strings.Fields(string(packet))
	if len(words) == 0 {
		return Command{}, fmt.Errorf("control: empty command")
	}
	return Command{Verb: words[0], Args: words[1:]}, nil
}

// Packet gives the bytes of one packet.
func (c Command) Packet() []byte {
	return []byte(c.String())
}

func (c Command) String() string {
	return strings.Join(append([]string{c.Verb}, c.Args...), " ")
}

// Arg gives the i-th argument, or "".
func (c Command) Arg(i int) string {
	if i < len(c.Args) {
		return c.Args[i]
	}
	return ""
}

// Drain makes a VerbDrain command. The deadline counts from its receipt.
func Drain(how string, deadline time.Duration) Command {
	return Command{VerbDrain, []string{how, strconv.FormatInt(deadline.Milliseconds(), 10)}}
}

// GiveIdle makes a VerbGive command.
func GiveIdle(n int) Command { return Command{VerbGive, []string{strconv.Itoa(n)}} }

// GiveArgs reads the argument of a VerbGive command.
func (c Command) GiveArgs() (n int, err error) {
	n, err = strconv.Atoi(c.Arg(0))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("control: give: %q is not a number of connections", c.Arg(0))
	}
	return n, nil
}

// DrainArgs reads the arguments of a VerbDrain command.
func (c Command) DrainArgs() (how string, deadline time.Duration, err error) {
	how = c.Arg(0)
	if how != DrainMove && how != DrainClose {
		return "", 0, fmt.Errorf("control: drain %q: want move or close", how)
	}
	ms, err := strconv.ParseInt(c.Arg(1), 10, 64)
	if err != nil || ms < 0 {
		return "", 0, fmt.Errorf("control: drain: deadline %q is not a number of milliseconds", c.Arg(1))
	}
	return how, time.Duration(ms) * time.Millisecond, nil
}
