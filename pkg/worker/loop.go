package worker

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"supervisor/pkg/protocol"
	"supervisor/pkg/scoreboard"
)

// givingBack is how long a worker of a generation that never came offers its connections to the one before it, whose supervisor
// may be gone, too.
const givingBack = 2 * time.Second

// loop owns the mode: it alone starts, changes and ends drains. The others tell it facts.
func (w *Worker) loop(signals <-chan signal) {
	var (
		commands  = w.commands()   // nil: nobody commands, or nobody any more
		committed bool             // the supervisor said that our generation is in force
		deadline  <-chan time.Time // of the drain that is on
		orphaned  <-chan time.Time // when to stop without a supervisor
		unwanted  <-chan time.Time // when to give up offering connections to an earlier generation
		giveOver  <-chan time.Time // when give ends, whether or not all were given
	)
	drain := func(how string, within time.Duration) {
		within = w.hasUntil(within)
		w.lastCall.Store(w.Now() + int64(within-within/4))
		w.wanted()
		w.drain(how)
		deadline = time.After(within)
	}
	for {
		select {
		case c, ok := <-commands:
			if !ok {
				commands = nil
				if wait := w.settings.OrphanTimeout; committed {
					complain("the supervisor is gone: serving on for %v", wait)
					orphaned = time.After(wait)
				} else {
					complain("the supervisor is gone before it committed to this generation: giving connections back and stopping")
					drain(protocol.DrainMove, time.Duration(w.stopWithin.Load()))
					unwanted = time.After(givingBack)
				}
				continue
			}
			switch c.Verb {
			case protocol.VerbDrain:
				how, within, err := c.DrainArgs()
				if err != nil {
					complain("%v", err)
					continue
				}
				drain(how, within)
			case protocol.VerbUndrain:
				w.undrain()
				deadline = nil
			case protocol.VerbLame:
				w.lame.Store(true)
			case protocol.VerbAdopt:
				w.adopt(c.Arg(0) == "on")
			case protocol.VerbGive:
				n, err := c.GiveArgs()
				if err != nil {
					complain("%v", err)
					continue
				}
				w.give(n)
				giveOver = time.After(giveTime)
			case protocol.VerbServe:
				w.serveOne(c.Arg(0), c.conn)
			case protocol.VerbCommit:
				committed = true
			case protocol.VerbReopen:
				w.reopenLogs()
			case protocol.VerbDump:
				go dump(os.Stderr)
			case protocol.VerbProfile:
				go w.profile(c.Command, c.conn)
			}

		case s := <-signals:
			switch {
			case s == signalReopen:
				w.reopenLogs()
			case !w.begun.Load():
				os.Exit(0) // nothing was started: nothing to drain, and nobody who would see the end
			case s == signalStop && w.mode.Load() != closing:
				drain(protocol.DrainClose, time.Duration(w.stopWithin.Load()))
			case s == signalQuick:
				if w.mode.Load() == ended {
					os.Exit(1) // asked for a second time: main hangs after Serve
				}
				w.finish()
			}

		case <-orphaned:
			orphaned = nil
			if w.mode.Load() == serving {
				drain(protocol.DrainClose, time.Duration(w.stopWithin.Load()))
			}

		case <-giveOver:
			giveOver = nil
			w.toGive.Store(0)

		case <-unwanted:
			unwanted = nil
			if deadline != nil {
				w.drain(protocol.DrainClose)
			}

		case <-deadline:
			deadline = nil
			w.finish()

		case <-w.settled:
			if deadline != nil && w.isSettled() {
				deadline = nil
				w.finish()
			}
		}
	}
}

// command is one packet of the control channel, with the connection that came along.
type command struct {
	protocol.Command
	conn net.Conn // nil: none
}

// commands reads the control channel. The channel is closed when the supervisor is gone, and nil when there was none.
func (w *Worker) commands() <-chan command {
	control := w.inherited.control
	if control == nil {
		return nil
	}
	commands := make(chan command)
	go func() {
		defer close(commands)
		packet := make([]byte, protocol.MaxCommand)
		for {
			n, conn, err := receive(control, packet)
			if errors.Is(err, syscall.ECONNRESET) {
				continue // it died with words of ours unread; what it had said to us is still there, and then the end
			}
			if err != nil {
				complain("%v", err)
			}
			if err != nil || n == 0 {
				return
			}
			c, err := protocol.ParseCommand(packet[:n])
			if conn != nil && (err != nil || c.Verb != protocol.VerbServe && c.Verb != protocol.VerbProfile) {
				conn.Close()
			}
			if err == nil {
				commands <- command{c, conn}
			}
		}
	}()
	return commands
}

// tell sends a command to the supervisor. It never waits: when the channel is full the supervisor has more to read than it can
// use already.
func (w *Worker) tell(c protocol.Command) {
	if control := w.inherited.control; control != nil {
		control.SetWriteDeadline(time.Now().Add(notifyPatience))
		control.Write(c.Packet())
	}
}

// recycle asks the supervisor, once per reason, to replace this process. It serves on until it is told to drain.
func (w *Worker) recycle(reason string) {
	once := &w.recycling[0]
	if reason == protocol.RecycleTimeout {
		once = &w.recycling[1]
	}
	once.Do(func() { go w.tell(protocol.Command{Verb: protocol.VerbRecycle, Args: []string{reason}}) })
}

func (w *Worker) reopenLogs() {
	w.mu.Lock()
	hooks := w.reopen
	w.mu.Unlock()
	for _, f := range hooks {
		f()
	}
}

// limit is the part of max_requests that one shard may use up before the total is looked at.
type limit struct {
	next atomic.Uint64
	_    [120]byte // two cache lines: the next shard's counter is another processor's
}

// setLimits divides max_requests among the shards.
func (w *Worker) setLimits() {
	mark := never
	if w.settings.MaxRequests > 0 {
		mark = max(1, w.settings.MaxRequests/scoreboard.Shards)
	}
	for i := range w.limits {
		w.limits[i].next.Store(mark)
	}
}

// never is a mark that no counter reaches.
const never uint64 = 1<<64 - 1

// overLimit looks at the total after a shard has finished its n-th request, and sets the shard's next mark: when every shard uses up
// an eighth of what is left, the limit cannot be passed by more than one request a shard.
func (w *Worker) overLimit(shard int, n uint64) {
	total := w.board.Total(scoreboard.Finished)
	if total >= w.settings.MaxRequests {
		for i := range w.limits {
			w.limits[i].next.Store(never)
		}
		w.recycle(protocol.RecycleMaxRequests)
		return
	}
	w.limits[shard].next.Store(n + max(1, (w.settings.MaxRequests-total)/scoreboard.Shards))
}
