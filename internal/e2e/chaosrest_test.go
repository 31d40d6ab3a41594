package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"supervisor/pkg/control"
)

// What chaos must leave as it was.

// processes are those of one chaos.
type processes struct {
	workers []chaosWorker // by name
	masters []int         // all others but the holder: supervisors, the oldest first
	zombies []int         // children of the holder or of a supervisor
}

type chaosWorker struct {
	name string
	pid  int
}

func (c *chaos) processes() (all processes) {
	parents := map[int]int{} // of zombies: those have no environment any more
	family := map[int]bool{c.cmd.Process.Pid: true}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == c.cmd.Process.Pid {
			continue
		}
		stat, _ := os.ReadFile("/proc/" + e.Name() + "/stat")
		_, rest, _ := strings.Cut(string(stat), ") ")
		if strings.HasPrefix(rest, "Z") {
			parents[pid], _ = strconv.Atoi(strings.Fields(rest)[1])
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil || !bytes.Contains(env, []byte(c.mark+"\x00")) {
			continue
		}
		family[pid] = true
		name := ""
		for pair := range bytes.SplitSeq(env, []byte{0}) {
			if worker, ok := bytes.CutPrefix(pair, []byte("SUPERVISOR_WORKER=")); ok {
				name = string(worker)
			}
		}
		if name != "" {
			all.workers = append(all.workers, chaosWorker{name, pid})
		} else {
			all.masters = append(all.masters, pid)
		}
	}
	for pid, parent := range parents {
		if family[parent] {
			all.zombies = append(all.zombies, pid)
		}
	}
	slices.Sort(all.masters)
	slices.SortFunc(all.workers, func(a, b chaosWorker) int { return strings.Compare(a.name, b.name) })
	return all
}

// footprint is what holder and supervisor have.
type footprint struct {
	holder, supervisor map[string]int // descriptors, by kind
	memory             int64          // kB
}

func (f footprint) String() string {
	return fmt.Sprintf("%d + %d descriptors, %d kB of memory", total(f.holder), total(f.supervisor), f.memory)
}

// within reports whether there is nothing more than in the other one.
func (f footprint) within(other footprint) bool {
	return !more(f.holder, other.holder) && !more(f.supervisor, other.supervisor)
}

func more(kinds, than map[string]int) bool {
	for kind, n := range kinds {
		if n > than[kind] {
			return true
		}
	}
	return false
}

func total(kinds map[string]int) (n int) {
	for _, count := range kinds {
		n += count
	}
	return n
}

func (c *chaos) footprint() footprint {
	f := footprint{holder: descriptors(c.cmd.Process.Pid), memory: residentKB(c.cmd.Process.Pid)}
	if masters := c.processes().masters; len(masters) == 1 {
		f.supervisor = descriptors(masters[0])
		f.memory += residentKB(masters[0])
	}
	return f
}

// which is what tells one descriptor of a kind from the other: an inode, or that its file has another by its name now.
var which = regexp.MustCompile(`:\[\d+\]| \(deleted\)`)

// descriptors counts those of a process by what they are.
func descriptors(pid int) map[string]int {
	kinds := map[string]int{}
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	for _, e := range entries {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		kinds[which.ReplaceAllString(link, "")]++
	}
	return kinds
}

func residentKB(pid int) (kb int64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			break
		}
	}
	return kb
}

// stretch lets the supervisor have all that one keeps: the sockets of slots that were open once, and the duplicate of its control socket
// that it made for a successor. It gives the footprint to return to.
func (c *chaos) stretch() footprint {
	c.t.Helper()
	c.ask("scale", fmt.Sprintf("web=%d", mostChaosWorkers))
	c.signal(syscall.SIGUSR2)
	c.await("this supervisor is in charge", 1)
	replace(c.t, c.program, c.bad)
	c.signal(syscall.SIGUSR2)
	c.await("self-upgrade failed", 1)
	replace(c.t, c.program, c.goodProgram)
	c.rest(nil)
	base := c.footprint()
	for again := 0; again < 20; again++ { // of the socket of our last command there may be an end left
		if now := c.footprint(); !now.within(base) || !base.within(now) {
			base, again = now, 0
		}
		time.Sleep(10 * time.Millisecond)
	}
	return base
}

// ask tries a command until it is heard.
func (c *chaos) ask(args ...string) {
	c.t.Helper()
	for deadline := time.Now().Add(eventually); ; time.Sleep(20 * time.Millisecond) {
		out, err := c.ctl(args...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("ctl %v: %s", args, out)
		}
	}
}

// rest waits for the end of all that is under way: one supervisor, chaosWorkers ready workers, nobody else, and the descriptors of base.
func (c *chaos) rest(base *footprint) {
	c.t.Helper()
	c.ask("scale", fmt.Sprintf("web=%d", chaosWorkers))
	c.asked = chaosWorkers
	began := time.Now()
	for wrong := ""; ; time.Sleep(20 * time.Millisecond) {
		if wrong = c.restless(base); wrong == "" {
			c.t.Logf("at rest after %.1f s", time.Since(began).Seconds())
			return
		}
		if time.Since(began) > eventually {
			c.t.Fatalf("it does not come to rest: %s", wrong)
		}
	}
}

// restless says what is not at rest.
func (c *chaos) restless(base *footprint) string {
	out, err := c.ctl("--json", "status")
	var s control.Status
	if err != nil || json.Unmarshal(out, &s) != nil || len(s.Pools) != 1 {
		return string(out)
	}
	all := c.processes()
	pool := s.Pools[0]
	switch {
	case len(all.masters) != 1 || len(all.workers) != chaosWorkers || len(all.zombies) != 0:
		return fmt.Sprintf("processes %+v", all)
	case pool.Ready != chaosWorkers || pool.Leaving != 0 || s.Reload != nil:
		return string(out)
	}
	for _, w := range all.workers {
		if kb := residentKB(w.pid); kb > 160<<10 {
			return fmt.Sprintf("worker %s has %d kB of memory", w.name, kb)
		}
	}
	if base == nil {
		return ""
	}
	now := c.footprint()
	switch {
	case !now.within(*base):
		return fmt.Sprintf("descriptors of the holder: %v, were %v; of the supervisor: %v, were %v", now.holder, base.holder, now.supervisor,
			base.supervisor)
	case now.memory > 2*base.memory:
		return fmt.Sprintf("%d kB of memory, %d before", now.memory, base.memory)
	}
	return ""
}
