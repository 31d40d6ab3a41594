package supervisor

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
)

func TestSnapshotMemoryKeepsTheLastWholeSnapshot(t *testing.T) {
	m, err := newSnapshotMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	want := snapshot{Version: snapshotVersion, Instance: "a"}
	read := func() (s snapshot) {
		t.Helper()
		if err := (&snapshotMemory{fd: m.fd}).read(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for generation := range 5 {
		want.Generation = generation
		if err := m.write(want); err != nil {
			t.Fatal(err)
		}
		if got := read(); got.Generation != generation {
			t.Fatalf("read generation %d, want %d", got.Generation, generation)
		}
	}
	// The writer is killed in the middle of the next one: its place is half written, the header is the old one.
	place := int64(snapshotHeader)
	if m.offset == place {
		place += snapshotPlace
	}
	unix.Pwrite(m.fd, []byte(`{"version":1,"genera`), place)
	if got := read(); got.Generation != 4 {
		t.Errorf("read generation %d after a torn write, want 4", got.Generation)
	}
	// A damaged one is refused, not believed.
	unix.Pwrite(m.fd, []byte("x"), m.offset+1)
	if err := (&snapshotMemory{fd: m.fd}).read(&snapshot{}); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a damaged snapshot: %v", err)
	}
}

func TestSnapshotOfAnotherVersion(t *testing.T) {
	m, err := newSnapshotMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var s snapshot
	if err := m.writeText([]byte(`{"version":1,"generation":7,"invented_later":{"a":[1]},"pools":[{"name":"web","delta":2,"colour":"red"}]}`)); err != nil {
		t.Fatal(err)
	}
	if err := m.read(&s); err != nil || s.Generation != 7 || s.Pools[0].Delta != 2 {
		t.Errorf("a newer supervisor's snapshot: %+v, %v", s, err)
	}
	m.writeText([]byte(`{"version":2}`))
	if err := m.read(&s); err == nil || !strings.Contains(err.Error(), "version 2, this supervisor knows 1") {
		t.Errorf("another version: %v", err)
	}
}

func TestBundleArrivesWithItsDescriptors(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, there := pollable(pair[0], "here"), pollable(pair[1], "there")
	defer here.Close()
	defer there.Close()
	// More than go into one packet, and a document longer than one.
	want := bundle{fds: map[string]int{}, snapshot: snapshot{Version: snapshotVersion, Instance: strings.Repeat("x", 1<<20)}}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i := range 600 {
		want.fds[slotDescriptor("b", i)] = int(file.Fd())
	}
	sent := make(chan error, 1)
	go func() { sent <- sendBundle(here, want) }()
	got, err := receiveBundle(there)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	defer got.close()
	if got.snapshot.Instance != want.snapshot.Instance || len(got.fds) != 601 { // and its own memory
		t.Errorf("%d bytes and %d descriptors arrived", len(got.snapshot.Instance), len(got.fds))
	}
	var a, b unix.Stat_t
	unix.Fstat(int(file.Fd()), &a)
	fd := got.take(slotDescriptor("b", 599))
	unix.Fstat(fd, &b)
	unix.Close(fd)
	if a.Ino != b.Ino || got.take(slotDescriptor("b", 599)) != -1 {
		t.Error("a descriptor arrived as another one, or twice")
	}
}

func TestSameConfigPassesOverWhatOnlyOneKnows(t *testing.T) {
	pool := testPool("")
	text, err := json.Marshal(pool)
	if err != nil {
		t.Fatal(err)
	}
	older := strings.Replace(string(text), `"Name"`, `"Forgotten":1,"Name"`, 1)
	for _, c := range []struct {
		name   string
		before string
		change func(*config.Pool)
		same   bool
	}{
		{"nothing", string(text), func(*config.Pool) {}, true},
		{"a setting that this version does not have", older, func(*config.Pool) {}, true},
		{"the command", string(text), func(p *config.Pool) { p.Command = []string{"other"} }, false},
		{"the environment", string(text), func(p *config.Pool) { p.Env = map[string]string{"A": "b"} }, false},
	} {
		now := *pool
		c.change(&now)
		if got := sameConfig(json.RawMessage(c.before), &now); got != c.same {
			t.Errorf("%s changed: same %v, want %v", c.name, got, c.same)
		}
	}
}

func TestConfigurationSurvivesASnapshot(t *testing.T) {
	t.Chdir("../config") // its env_file is relative
	want, err := config.Load(config.Sources{File: "testdata/full.toml"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeConfig(encodeConfig(want))
	if err != nil {
		t.Fatal(err)
	}
	if g, w := string(encodeConfig(got)), string(encodeConfig(want)); g != w {
		t.Errorf("it became\n%s\nfrom\n%s", g, w)
	}
	for i, p := range want.Pools {
		if !reflect.DeepEqual(got.Pools[i], p) {
			t.Errorf("pool %s became\n%+v\nfrom\n%+v", p.Name, got.Pools[i], p)
		}
	}
	older, err := decodePool(json.RawMessage(`{"Name":"jobs"}`))
	if err != nil || older.GracefulTimeout != config.Defaults().Pools[0].GracefulTimeout {
		t.Errorf("an older supervisor's pool: %+v, %v", older, err)
	}
}

// All names of what is stored come back in one variable, which the kernel must take: 2000 workers with long pids, on two addresses.
func TestNamesOfTwoThousandWorkersFitIntoTheEnvironment(t *testing.T) {
	fds := map[string]int{snapshotName: 0}
	for _, id := range []string{"zzzzy", "zzzzz"} { // of the sixty millionth socket of the machine
		for slot := range config.MaxWorkers {
			fds[slotDescriptor(id, slot)] = 0
		}
		fds[bindDescriptor(id, bindRx)], fds[bindDescriptor(id, bindTx)] = 0, 0
	}
	const maxPID = 1 << 22
	for i := range config.MaxWorkers {
		for _, what := range []string{shareControl, shareNotify, shareBoard, shareOutput[streamOut], shareOutput[streamErr]} {
			fds[workerDescriptor(maxPID-i, what)] = 0
		}
	}
	if want := 1 + 2*(config.MaxWorkers+2) + 5*config.MaxWorkers; len(fds) != want {
		t.Errorf("%d names, want %d: some are the same", len(fds), want)
	}
	names := slices.Collect(maps.Keys(fds))
	for _, name := range names {
		if !isOurs(name) {
			t.Fatalf("%s would be taken for a socket unit's", name)
		}
	}
	cmd := exec.Command("/bin/true")
	cmd.Env = []string{"LISTEN_FDNAMES=" + strings.Join(names, ":")}
	if err := cmd.Run(); err != nil {
		t.Errorf("%d bytes: %v", len(cmd.Env[0]), err)
	}
	t.Logf("%d bytes", len(cmd.Env[0]))
}

// After a kill -9 nobody has read the configuration in force; where its values came from is known all the same.
func TestConfigInForceKeepsItsOrigins(t *testing.T) {
	cfg := testConfig(testPool("worker"))
	in := &Inheritance{before: &bundle{snapshot: snapshot{Config: encodeConfig(cfg), Origins: map[string]string{"pool.web.workers": "app.toml:17"}}}}
	got, err := in.Config(func() (*config.Config, error) { return nil, errors.New("broken by now") })
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range got.Settings() {
		if want := map[string]string{"pool.web.workers": "app.toml:17", "pool.web.timeout": "default"}[s.Key]; want != "" && s.From != want {
			t.Errorf("%+v", s)
		}
	}
	if len(got.Settings()) == 0 {
		t.Error("no settings")
	}
}
