package config

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"supervisor/pkg/machine"
)

// envTestInstance makes the test binary a process that holds a pidfile's lock: a running instance without any address.
const envTestInstance = "SUPERVISOR_TEST_PIDFILE"

func TestHelperInstance(t *testing.T) {
	path := os.Getenv(envTestInstance)
	if path == "" {
		t.Skip("not started by startInstance")
	}
	lockPIDFile(t, path)
	fmt.Println("locked")
	bufio.NewReader(os.Stdin).ReadString('\n') // until its parent is gone
}

// lockPIDFile makes the calling process the running instance of a pidfile.
func lockPIDFile(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
}

// startInstance starts another process that is the running instance of a pidfile, and gives its pid.
func startInstance(t *testing.T, path string) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperInstance$")
	cmd.Env = append(os.Environ(), envTestInstance+"="+path)
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd.Process.Pid
}

// checked loads and checks a pool that binds these addresses.
func checked(t *testing.T, pidfile string, binds ...string) (string, error) {
	t.Helper()
	flags := map[string][]string{"bind": binds}
	if pidfile != "" {
		flags["pid"] = []string{pidfile}
	}
	return mustLoad(t, Sources{Args: []string{"/bin/true"}, Flags: flags}).Check()
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func needIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6")
	}
	l.Close()
}

// undisturbed fails if anybody connected.
func undisturbed(t *testing.T, l net.Listener) {
	t.Helper()
	l.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now()) // accept looks into the queue, then gives up
	if conn, err := l.Accept(); err == nil {
		conn.Close()
		t.Error("the check connected to the running instance")
	}
}

func wantCheck(t *testing.T, err error, bind bool, want ...string) {
	t.Helper()
	var bad *Error
	if !errors.As(err, &bad) {
		t.Fatalf("got %v, want %q", err, want)
	}
	if bad.Bind() != bind {
		t.Errorf("Bind() = %v", bad.Bind())
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("got  %v\nwant %s", err, w)
		}
	}
}

func TestCheckPassesFreeAddresses(t *testing.T) {
	dir := t.TempDir()
	free := listen(t, "tcp", "127.0.0.1:0")
	address := free.Addr().String()
	free.Close()
	summary, err := checked(t, filepath.Join(dir, "pid"), address, "127.0.0.1:0", ":0", "unix:"+dir+"/s", "systemd:web")
	if err != nil || summary != "1 worker of 1 pool, 5 addresses" {
		t.Errorf("%q, %v", summary, err)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 0 {
		t.Errorf("the check left %v", entries)
	}
	if l, err := net.Listen("tcp", address); err != nil {
		t.Errorf("the check holds the address: %v", err)
	} else {
		l.Close()
	}
}

func TestCheckNamesTheHolderOfAPort(t *testing.T) {
	needIPv6(t)
	me := fmt.Sprintf("address already in use by pid %d (", os.Getpid())
	v4, v6, wild := listen(t, "tcp4", "127.0.0.1:0"), listen(t, "tcp6", "[::1]:0"), listen(t, "tcp", ":0")
	port := func(l net.Listener) string { return fmt.Sprint(l.Addr().(*net.TCPAddr).Port) }
	for _, bind := range []string{
		v4.Addr().String(), ":" + port(v4), "0.0.0.0:" + port(v4), v6.Addr().String(), "[::]:" + port(v6), ":" + port(wild),
		"127.0.0.1:" + port(wild), "[::1]:" + port(wild), "tcp4::" + port(wild), "localhost:" + port(wild),
	} {
		_, err := checked(t, "", bind)
		wantCheck(t, err, true, "flag --bind: ", me)
	}
	for _, l := range []net.Listener{v4, v6, wild} {
		undisturbed(t, l)
	}
}

func TestCheckPassesWhatTheRunningInstanceHolds(t *testing.T) {
	dir := t.TempDir()
	pidfile := filepath.Join(dir, "pid")
	lockPIDFile(t, pidfile) // we are it
	tcp, sock := listen(t, "tcp", ":0"), listen(t, "unix", dir+"/s")
	port := tcp.Addr().(*net.TCPAddr).Port
	summary, err := checked(t, pidfile, fmt.Sprintf(":%d", port), "unix:"+dir+"/s")
	if want := fmt.Sprintf("1 worker of 1 pool, 2 addresses; pid %d is running", os.Getpid()); summary != want || err != nil {
		t.Errorf("got %q, %v, want %q", summary, err, want)
	}
	if _, err := checked(t, pidfile, fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		t.Errorf("another spelling of what it holds: %v", err)
	}
	undisturbed(t, tcp)
	undisturbed(t, sock)
	if _, err := os.Lstat(dir + "/s"); err != nil {
		t.Error(err)
	}
}

func TestCheckRefusesWhatSomebodyElseHolds(t *testing.T) {
	dir := t.TempDir()
	pidfile := filepath.Join(dir, "pid")
	pid := startInstance(t, pidfile)
	if got, err := machine.LockHolder(pidfile); got != pid || err != nil {
		t.Fatalf("running instance %d, %v, want %d", got, err, pid)
	}
	tcp := listen(t, "tcp", "127.0.0.1:0")
	listen(t, "unix", dir+"/s")
	_, err := checked(t, pidfile, tcp.Addr().String(), "unix:"+dir+"/s")
	wantCheck(t, err, true, fmt.Sprintf("address already in use by pid %d (", os.Getpid()),
		fmt.Sprintf("another process listens there: pid %d (", os.Getpid()))
}

func TestAPidfileWithoutALockIsNobodys(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"ours": fmt.Sprint(os.Getpid()), "gone": "999999999", "empty": "", "other": "hello"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path) // open, but not locked
		if err != nil {
			t.Fatal(err)
		}
		if pid, err := machine.LockHolder(path); pid != 0 || err != nil {
			t.Errorf("%s: %d, %v", name, pid, err)
		}
		f.Close()
	}
	if pid, err := machine.LockHolder(filepath.Join(dir, "missing")); pid != 0 || err != nil {
		t.Errorf("missing: %d, %v", pid, err)
	}
	tcp := listen(t, "tcp", "127.0.0.1:0")
	_, err := checked(t, filepath.Join(dir, "ours"), tcp.Addr().String())
	wantCheck(t, err, true, "already in use")
}

func TestCheckOfUnixSockets(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	stale, err := net.Listen("unix", in("stale"))
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	live := listen(t, "unix", in("live"))
	os.WriteFile(in("file"), nil, 0o644)
	os.Symlink(in("live"), in("link"))
	os.Symlink(in("nowhere"), in("dangling"))
	os.Mkdir(in("dir"), 0o755)
	syscall.Mkfifo(in("fifo"), 0o644)
	listen(t, "unix", in("before"))
	os.Rename(in("before"), in("renamed")) // /proc/net/unix knows it by its old name
	for name, want := range map[string]string{
		"new": "", "stale": "", "live": fmt.Sprintf("pid %d (", os.Getpid()), "file": "a regular file, not a socket", "link": "a symbolic link, not a socket",
		"dangling": "a symbolic link", "dir": "a directory", "fifo": "a special file", "none/s": "cannot make a socket in", "file/s": "not a directory",
		"renamed": fmt.Sprintf("pid %d (", os.Getpid()),
	} {
		before, _ := os.Lstat(in(name))
		_, err := checked(t, "", "unix:"+in(name))
		if want != "" {
			wantCheck(t, err, true, want)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.Lstat(in(name)); (before == nil) != (after == nil) || (before != nil && !os.SameFile(before, after)) {
			t.Errorf("%s: the check changed the file", name)
		}
	}
	live.Close()
}

func TestCheckSaysEverythingAtOnce(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "data"), nil, 0o644)
	os.Mkdir(filepath.Join(dir, "sub"), 0o755)
	busy := listen(t, "tcp", "127.0.0.1:0")
	file := writeFile(t, "c.toml", fmt.Sprintf(`[supervisor]
pidfile = "%[1]s/none/pid"
errorlog = "%[1]s"
accesslog = "%[1]s/data/log"
[pool.a]
command = ["%[1]s/data"]
bind = "%[2]s"
[pool.b]
command = ["no-such-program"]
[pool.c]
command = ["%[1]s/sub"]
[pool.d]
command = ["./missing"]
chdir = "%[1]s"
[pool.e]
command = ["data"]
env = { PATH = "%[1]s" }
[pool.f]
command = ["bin/true"]
chdir = "/"
health = ["no-such-probe"]
[pool.f.hooks]
before_start = ["bin/true"]
before_reload = ["./migrate"]
on_worker_exit = ["%[1]s/data", "argument"]
`, dir, busy.Addr()))
	_, err := mustLoad(t, Sources{File: file}).Check()
	wantCheck(t, err, false,
		file+":2: supervisor.pidfile: cannot make "+dir+"/none/pid: "+dir+"/none: no such file or directory",
		file+":3: supervisor.errorlog: "+dir+" is a directory",
		file+":4: supervisor.accesslog: "+dir+"/data/log: not a directory",
		file+":6: pool.a.command: "+dir+"/data: is not executable (mode 0644)",
		file+`:7: pool.a.bind: "a=`+busy.Addr().String()+`": address already in use by pid `,
		file+":9: pool.b.command: no-such-program: not found in the worker's PATH=",
		file+":11: pool.c.command: "+dir+"/sub: is a directory, not a program",
		file+":13: pool.d.command: "+dir+"/missing: no such file or directory",
		file+":16: pool.e.command: data: not found in the worker's PATH="+dir,
		file+":21: pool.f.health: no-such-probe: not found in the worker's PATH=",
		file+":24: pool.f.hooks.before_reload: /migrate: no such file or directory",
		file+":25: pool.f.hooks.on_worker_exit: "+dir+"/data: is not executable (mode 0644)",
	)
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 12 {
		t.Errorf("got %d problems:\n%v", len(lines), err)
	}
}

func TestCheckKnowsSystemdsSockets(t *testing.T) {
	t.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	t.Setenv("LISTEN_FDNAMES", "web:api")
	if _, err := checked(t, "", "systemd:api"); err != nil {
		t.Error(err)
	}
	_, err := checked(t, "", "systemd:jobs")
	wantCheck(t, err, true, "systemd passed no socket of that name (it passed: web, api)")
}
