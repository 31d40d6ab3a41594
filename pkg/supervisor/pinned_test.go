package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"supervisor/pkg/config"
)

// install puts a copy of the test binary, a worker, at path: under another name first, as a deploy does.
func install(t *testing.T, path string) (inode uint64) {
	t.Helper()
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.Copy(to, from); err == nil {
		err = to.Close()
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return inodeOf(t, path)
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// runs gives the inode of what a process executes.
func runs(t *testing.T, pid int) uint64 { return inodeOf(t, fmt.Sprintf("/proc/%d/exe", pid)) }

// killOne kills the first worker and gives the pid of the one in its place.
func (m *master) killOne() int {
	m.t.Helper()
	before := m.count("worker ready")
	victim := m.pids()[0]
	syscall.Kill(victim, syscall.SIGKILL)
	m.await("worker ready", before+1)
	return m.pids()[0]
}

// descriptors gives how many this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// wantDescriptors waits for the number to come back to what it was: output pipes close when they have been read to their end.
func wantDescriptors(t *testing.T, want int) {
	t.Helper()
	for deadline := time.Now().Add(eventually); descriptors(t) > want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors are open, %d before", descriptors(t), want)
		}
	}
}

// A deploy replaces the file, and a worker dies before the reload: its successor runs what its generation runs. The reload runs the new one,
// a reload that fails leaves the old.
func TestRespawnRunsTheProgramOfItsGeneration(t *testing.T) {
	for _, user := range []string{"", "nobody"} {
		t.Run("user="+user, func(t *testing.T) {
			if user != "" && os.Getuid() != 0 {
				t.Skip("needs root")
			}
			dir := t.TempDir()
			for d := dir; d != "/"; d = filepath.Dir(d) {
				os.Chmod(d, 0o755)
			}
			path := filepath.Join(dir, "app")
			old := install(t, path)
			pool := onPort(testPool("worker"))
			pool.Command, pool.User = []string{path}, user
			m := startMaster(t, testConfig(pool))
			m.await("pool serves", 1)
			if runs(t, m.pids()[0]) != old {
				t.Error("the first worker runs another file")
			}

			replaced := install(t, path)
			open := descriptors(t)
			if pid := m.killOne(); runs(t, pid) != old {
				t.Error("after the file was replaced a respawn runs another program than its generation's")
			}
			if n := m.count("the command was replaced without a reload"); n != 1 {
				t.Errorf("said %d times that the file was replaced", n)
			}
			os.Remove(path)
			if pid := m.killOne(); runs(t, pid) != old {
				t.Error("after the file was removed a respawn runs another program than its generation's")
			}
			m.reload(testConfig(pool), nil) // no such file
			if e := m.await("reload failed, nothing changed", 1); !strings.Contains(e.ContextMap()["error"].(string), path) {
				t.Errorf("the verdict does not name the file: %v", e.ContextMap()["error"])
			}
			if pid := m.killOne(); runs(t, pid) != old {
				t.Error("after a failed reload a respawn runs another program than its generation's")
			}

			if again := install(t, path); again == old {
				t.Fatalf("inode %d again, was %d", again, replaced)
			}
			m.reload(testConfig(pool), nil)
			m.await("reload done", 1)
			if pid := m.pids()[0]; runs(t, pid) == old || runs(t, pid) != inodeOf(t, path) {
				t.Error("the reload does not run the file of now")
			}
			if pid := m.killOne(); runs(t, pid) != inodeOf(t, path) {
				t.Error("a respawn of the new generation runs another file")
			}
			wantDescriptors(t, open)
		})
	}
}

// A relative command and a chdir that is a link to a release: both belong to the generation.
func TestRespawnRunsInTheDirectoryOfItsGeneration(t *testing.T) {
	dir := t.TempDir()
	current := filepath.Join(dir, "current")
	for _, release := range []string{"1", "2"} {
		if err := os.Mkdir(filepath.Join(dir, release), 0o755); err != nil {
			t.Fatal(err)
		}
		install(t, filepath.Join(dir, release, "app"))
	}
	link := func(release string) {
		os.Remove(current)
		if err := os.Symlink(release, current); err != nil {
			t.Fatal(err)
		}
	}
	link("1")
	pool := onPort(testPool("worker"))
	pool.Command, pool.Chdir = []string{"./app"}, current
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	open := descriptors(t)
	in := func(pid int, release string) {
		t.Helper()
		if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || filepath.Base(cwd) != release {
			t.Errorf("runs in %s, want release %s (%v)", cwd, release, err)
		}
		if runs(t, pid) != inodeOf(t, filepath.Join(dir, release, "app")) {
			t.Errorf("runs the program of another release than %s", release)
		}
	}
	in(m.pids()[0], "1")
	link("2")
	in(m.killOne(), "1")
	m.reload(nil, errors.New("supervisor.toml:3: nonsense"))
	m.await("reload failed", 1)
	in(m.killOne(), "1")
	m.reload(testConfig(pool), nil)
	m.await("reload done", 1)
	in(m.pids()[0], "2")
	in(m.killOne(), "2")
	wantDescriptors(t, open)
}

func TestScriptsRunByPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sh")
	write := func(version string) {
		text := "#!/bin/sh\nVERSION=" + version + " exec /proc/" + fmt.Sprint(os.Getpid()) + "/exe\n"
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("1")
	pool := onPort(testPool("worker"))
	pool.Command = []string{path}
	m := startMaster(t, testConfig(pool))
	m.await("pool serves", 1)
	write("2")
	m.killOne()
	if got := mustGet(t, m.addr(), "/"); !strings.HasSuffix(got, " 2") {
		t.Errorf("%q answered", got)
	}
	m.killOne()
	m.reload(testConfig(pool), nil)
	m.await("reload done", 1)
	if a, b := m.count("cannot be pinned"), m.count("the script was changed without a reload"); a != 1 || b != 1 {
		t.Errorf("said %d times that a script cannot be pinned, %d times that it has changed; want 1, 1", a, b)
	}
}

// What a supervisor pinned goes to the next one: all of it after a kill -9; after a self-upgrade what belongs to workers that stay.
func TestPinIsInherited(t *testing.T) {
	dir := t.TempDir()
	current := filepath.Join(dir, "current")
	first := map[string]uint64{}
	for _, release := range []string{"1", "2"} {
		if err := os.Mkdir(filepath.Join(dir, release), 0o755); err != nil {
			t.Fatal(err)
		}
		first[release] = install(t, filepath.Join(dir, release, "app"))
	}
	if err := os.Symlink("1", current); err != nil {
		t.Fatal(err)
	}
	pool := testPool("worker")
	pool.Command, pool.Chdir = []string{"./app"}, current
	never := *pool
	never.Name, never.Replace = "never", config.ReplaceNever

	open := descriptors(t)
	before := map[string]*pin{pool.Name: openPin(pool), never.Name: openPin(&never)}
	left := bundle{fds: map[string]int{}}
	for _, cfg := range []*config.Pool{pool, &never} {
		left.snapshot.Pools = append(left.snapshot.Pools, poolSnapshot{Name: cfg.Name, Config: encodeConfig(cfg), Pin: before[cfg.Name].snapshot(left.fds)})
	}
	if len(left.fds) != 2 {
		t.Errorf("two pools of one program in one directory leave %d descriptors, want 2: %v", len(left.fds), left.fds)
	}
	for name := range left.fds {
		if !isOurs(name) {
			t.Errorf("%s would be taken for a socket unit's", name)
		}
	}
	os.Remove(current)
	if err := os.Symlink("2", current); err != nil {
		t.Fatal(err)
	}
	install(t, filepath.Join(dir, "1", "app"))

	older := bundle{fds: map[string]int{}}
	for _, ps := range left.snapshot.Pools {
		ps.Pin = pinSnapshot{}
		older.snapshot.Pools = append(older.snapshot.Pools, ps)
	}
	incomplete := bundle{fds: map[string]int{left.snapshot.Pools[0].Pin.File: left.fds[left.snapshot.Pools[0].Pin.File]}, snapshot: left.snapshot}
	changed := *pool
	changed.Env = map[string]string{"A": "b"}
	talks := new(os.File) // to the supervisor before us, which lives
	for _, c := range []struct {
		name string
		in   *Inheritance
		cfg  *config.Pool
		want string // release
	}{
		{"the first supervisor", &Inheritance{}, pool, "2"},
		{"killed", &Inheritance{before: &left}, pool, "1"},
		{"killed, a pool that is never replaced", &Inheritance{before: &left}, &never, "1"},
		{"killed, and its configuration lost", &Inheritance{before: &left}, &changed, "2"},
		{"killed, an older one", &Inheritance{before: &older}, pool, "2"},
		{"killed, and the manager did not take all", &Inheritance{before: &incomplete}, pool, "2"},
		{"a self-upgrade", &Inheritance{before: &left, conn: talks}, pool, "2"},
		{"a self-upgrade, a pool that is never replaced", &Inheritance{before: &left, conn: talks}, &never, "1"},
	} {
		p := c.in.pinFor(c.cfg)
		again, err := p.again()
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
		for what, want := range map[int]uint64{again.file: first[c.want], again.dir: inodeOf(t, filepath.Join(dir, c.want))} {
			if got := inodeOf(t, descriptorPath(what)); got != want {
				t.Errorf("%s: inode %d, want %d, of release %s", c.name, got, want, c.want)
			}
		}
		if again.path != "./app" || again.byPath {
			t.Errorf("%s: path %q, a script: %v", c.name, again.path, again.byPath)
		}
		again.Close()
	}
	for _, p := range before {
		p.Close()
	}
	if n := descriptors(t); n != open {
		t.Errorf("%d descriptors are open, %d before", n, open)
	}
}
