package machine

import (
	"os"
	"path/filepath"
	"testing"
)

// tree makes files with these contents below a new directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestMemoryOfACgroup(t *testing.T) {
	for _, test := range []struct {
		name  string
		self  string
		files map[string]string
		want  Memory
		ok    bool
	}{
		{"version 2", "0::/app\n", map[string]string{
			"app/memory.max": "1000\n", "app/memory.current": "700\n", "app/memory.stat": "anon 400\nfile 300\ninactive_file 250\nactive_file 50\n",
		}, Memory{1000, 450}, true},
		{"without a limit", "0::/app\n", map[string]string{"app/memory.max": "max\n", "app/memory.current": "700\n", "memory.current": "9\n"}, Memory{}, false},
		{"the one around is closer", "0::/pod/app\n", map[string]string{
			"pod/app/memory.max": "1000\n", "pod/app/memory.current": "100\n", "pod/memory.max": "2000\n", "pod/memory.current": "1900\n",
		}, Memory{2000, 1900}, true},
		{"in a container the path is the host's", "0::/system.slice/docker-1.scope\n", map[string]string{
			"memory.max": "1000\n", "memory.current": "1\n",
		}, Memory{1000, 1}, true},
		{"version 1", "5:cpu,memory:/app\n0::/\n", map[string]string{
			"memory/app/memory.limit_in_bytes": "1000\n", "memory/app/memory.usage_in_bytes": "700\n", "memory/app/memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
			"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "5000\n",
		}, Memory{1000, 600}, true},
		{"both, memory in version 1", "5:memory:/\n0::/app\n", map[string]string{
			"memory/memory.limit_in_bytes": "1000\n", "memory/memory.usage_in_bytes": "700\n", "unified/app/cgroup.procs": "",
		}, Memory{1000, 700}, true},
		{"nothing", "", nil, Memory{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Cgroup{Self: filepath.Join(tree(t, map[string]string{"cgroup": test.self}), "cgroup"), Root: tree(t, test.files)}
			if got, ok := c.Memory(); got != test.want || ok != test.ok {
				t.Errorf("%+v %v, want %+v %v", got, ok, test.want, test.ok)
			}
		})
	}
}

func TestOOMKillsOfACgroup(t *testing.T) {
	for self, files := range map[string]map[string]string{
		"0::/app\n":       {"app/memory.current": "1\n", "app/memory.events": "oom 9\noom_kill 3\n"},
		"2:memory:/app\n": {"memory/app/memory.usage_in_bytes": "1\n", "memory/app/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"},
	} {
		c := Cgroup{Self: filepath.Join(tree(t, map[string]string{"cgroup": self}), "cgroup"), Root: tree(t, files)}
		if n := c.OOMKills(); n != 3 {
			t.Errorf("%q: %d", self, n)
		}
	}
}
