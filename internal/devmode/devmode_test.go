package devmode

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"supervisor/pkg/config"
)

// eventually bounds every wait.
const eventually = 60 * time.Second

// project is a directory with a Mode that builds by a shell script, and what came of it.
type project struct {
	t    *testing.T
	dir  string
	mode *Mode
	done chan struct{}

	mu      sync.Mutex
	screen  bytes.Buffer
	reloads int
	refuse  string // what the next reload says that it failed for
}

// start watches a directory with these files. script is what a build does; "": nothing is built.
func start(t *testing.T, script string, files map[string]string, change func(*Options)) *project {
	t.Helper()
	p := &project{t: t, dir: t.TempDir(), done: make(chan struct{})}
	for name, text := range files {
		p.write(name, text)
	}
	o := Options{Dir: p.dir, Watch: config.Defaults().Dev.Watch, Ignore: config.Defaults().Dev.Ignore, Out: p}
	if script != "" {
		o.Build = [][]string{{"sh", "-c", "echo x >> bin/builds; " + script}}
		p.write("bin/builds", "")
	}
	if change != nil {
		change(&o)
	}
	mode, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	p.mode = mode
	mode.Reload = func(verdict func(bool, string)) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.reloads++
		verdict(p.refuse == "", p.refuse+fmt.Sprintf("generation %d is in force", p.reloads+1))
	}
	return p
}

// run runs the mode until the test ends.
func (p *project) run() *project {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(p.done)
		p.mode.Run(ctx)
		p.mode.Close()
	}()
	p.t.Cleanup(func() {
		cancel()
		<-p.done
		if p.t.Failed() {
			p.t.Log(p.shown())
		}
	})
	return p
}

func (p *project) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.screen.Write(text)
}

func (p *project) shown() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.screen.String()
}

func (p *project) path(name string) string { return filepath.Join(p.dir, name) }

// write makes a file, or gives it other content, in one step: a slow machine must not build what is half written.
func (p *project) write(name, text string) {
	p.t.Helper()
	path, new := name, p.path("bin/new")
	if !filepath.IsAbs(name) {
		path = p.path(name)
	}
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(new)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			p.t.Fatal(err)
		}
	}
	err := os.WriteFile(new, []byte(text), 0o644)
	if err == nil {
		err = os.Rename(new, path)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// patient makes one change of all that is done within a second.
func (p *project) patient() *project {
	p.mode.quiet, p.mode.longest = time.Second, eventually
	return p
}

// builds gives how many have begun.
func (p *project) builds() int {
	text, _ := os.ReadFile(p.path("bin/builds"))
	return bytes.Count(text, []byte("x"))
}

func (p *project) until(what string, is func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(eventually); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("never: %s", what)
		}
	}
}

// see waits until something has been shown n times.
func (p *project) see(n int, text string) {
	p.t.Helper()
	p.until(text, func() bool { return strings.Count(p.shown(), text) >= n })
}

func TestChangeIsBuiltAndReloaded(t *testing.T) {
	t.Parallel()
	p := start(t, "grep -qv error main.go || { echo main.go:1: error; exit 3; }", map[string]string{"main.go": "one", "a.txt": "x"}, nil).run()
	p.write("main.go", "two")
	p.see(1, "supervisor: main.go has changed: building\n")
	p.see(1, "reloading\nsupervisor: generation 2 is in force\n")
	p.write("a.txt", "y") // it does not count
	p.write("main.go", "error")
	p.see(1, ": exit status 3, after ")
	p.see(1, "\nmain.go:1: error\n━━ the old code serves on: save a file to try again ━")
	p.write("main.go", "three")
	p.see(1, "generation 3 is in force")
	if n := p.builds(); n != 3 {
		t.Errorf("%d builds", n)
	}
	p.mu.Lock()
	p.refuse = "worker web.0.9 did not become ready; "
	p.mu.Unlock()
	p.write("main.go", "four")
	p.see(1, "━━ the reload failed ━")
	p.see(1, "\nworker web.0.9 did not become ready; ")
}

// Only what is in a file counts, not that it was written; and nothing is built for what is ignored.
func TestWhatIsNoChange(t *testing.T) {
	t.Parallel()
	p := start(t, "cp gen.txt gen.go", map[string]string{"main.go": "one", "gen.txt": "g", "gen.go": "g", "deep/down/x.go": "x"}, nil).patient().run()
	p.write("main.go", "one")
	for _, name := range []string{
		"main_test.go", ".main.go.swp", "main.go~", "#main.go#", "bin/x.go", "vendor/a/b.go", "web/node_modules/x/y.go", "deep/.git/x.go", "deep/testdata/x.go", "4913",
	} {
		p.write(name, "new")
	}
	os.Chmod(p.path("main.go"), 0o600)
	if err := os.WriteFile(p.path("gone.go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	os.Remove(p.path("gone.go")) // it was there for a moment
	p.write("deep/down/x.go", "y")
	p.see(1, "supervisor: deep/down/x.go has changed: building")
	p.see(1, "generation 2 is in force")
	p.write("gen.txt", "h")
	p.write("main.go", "two") // the build writes gen.go now: that is built once more
	p.see(1, "gen.go has changed: building")
	inForce := func() bool { return strings.HasSuffix(p.shown(), "is in force\n") }
	p.until("in force", inForce)
	p.write("main.go", "three")
	p.see(2, "supervisor: main.go has changed: building")
	p.until("in force", inForce)
	if n := p.builds(); n != 4 {
		t.Errorf("%d builds", n)
	}
}

// As editors save: they write another file and rename it; as git does it: hundreds of files, directories that come and go.
func TestManyChangesAreOneBuild(t *testing.T) {
	t.Parallel()
	files := map[string]string{"go.mod": "module x"}
	for i := range 300 {
		files[fmt.Sprintf("p%d/a.go", i%30)], files[fmt.Sprintf("p%d/f%d.go", i%30, i)] = "a", "f"
	}
	p := start(t, ":", files, nil).patient().run()
	p.write("p1/a.go", "b")
	p.see(1, "supervisor: p1/a.go has changed: building")
	p.see(1, "is in force")

	for i := range 300 {
		p.write(fmt.Sprintf("p%d/f%d.go", i%30, i), "g")
		p.write(fmt.Sprintf("q%d/new/f%d.go", i%30, i), "new")
	}
	for i := range 10 {
		os.RemoveAll(p.path(fmt.Sprintf("p%d", i)))
	}
	p.see(1, "p0/a.go and 609 more files have changed: building") // 300 new, 200 of 300 changed, 110 gone
	p.see(2, "is in force")

	p.write("q1/new/f1.go", "newer") // a new directory is watched
	p.see(1, "q1/new/f1.go has changed")
	p.see(3, "is in force")
	if err := os.Rename(p.path("q1"), p.path("r1")); err != nil {
		t.Fatal(err)
	}
	p.see(1, "q1/new/f1.go and 19 more files have changed") // 10 went, 10 came
	p.see(4, "is in force")
	p.write("r1/new/f1.go", "newest")
	p.see(1, "supervisor: r1/new/f1.go has changed")
	p.see(5, "is in force")
	if n := p.builds(); n != 5 {
		t.Errorf("%d builds", n)
	}
}

// A change during a build starts it again; what the first one had started is gone, and the reload is that of the last one.
func TestChangeDuringABuild(t *testing.T) {
	t.Parallel()
	p := start(t, `read code < main.go; echo "$code" >> bin/begun; [ "$code" = fast ] || { sleep 600 & wait; }; echo "$code" >> bin/built`, map[string]string{"main.go": "zero"}, nil).run()
	begun := func(want string) func() bool {
		return func() bool { text, _ := os.ReadFile(p.path("bin/begun")); return string(text) == want }
	}
	p.write("main.go", "slow\n")
	p.until("the first build", begun("slow\n"))
	p.write("main.go", "slower\n")
	p.until("the second build", begun("slow\nslower\n"))
	p.write("main.go", "fast\n")
	p.see(1, "is in force")
	if text, _ := os.ReadFile(p.path("bin/built")); string(text) != "fast\n" || p.builds() != 3 || p.reloads != 1 {
		t.Errorf("built %q of %d, %d reloads", text, p.builds(), p.reloads)
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range processes {
		if dir, _ := os.Readlink(link); dir == p.dir {
			t.Errorf("%s is left of a build", link)
		}
	}
}

// Before the first start the build must succeed; whoever waits for that can give up.
func TestFirstBuild(t *testing.T) {
	t.Parallel()
	p := start(t, "grep -q good main.go || { echo syntax error; exit 1; }", map[string]string{"main.go": "bad"}, nil)
	defer p.mode.Close()
	ctx, cancel := context.WithCancel(context.Background())
	built := make(chan error)
	go func() { built <- p.mode.First(ctx) }()
	p.see(1, "\nsyntax error\n━━ nothing runs yet: save a file to try again, Ctrl-C to give up ━")
	p.write("main.go", "good")
	if err := <-built; err != nil {
		t.Error(err)
	}
	p.write("main.go", "worse")
	go func() { built <- p.mode.First(ctx) }()
	p.see(2, "syntax error")
	cancel()
	if err := <-built; err == nil {
		t.Error("it is built")
	}
}

func TestWithoutABuild(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	os.MkdirAll(filepath.Join(shared, "sql/deep"), 0o755)
	p := start(t, "", map[string]string{"etc/app.toml": "a = 1", "templates/de/x.html": "x", "other/x.html": "x"}, func(o *Options) {
		o.Watch = append(o.Watch, shared+"/sql/**/*.sql", "./assets/**")
		o.Files = []string{"etc/app.toml"}
	}).run()
	for i, change := range []struct{ path, shown string }{
		{p.path("etc/app.toml"), "etc/app.toml"},
		{p.path("templates/de/x.html"), "templates/de/x.html"},
		{filepath.Join(shared, "sql/deep/q.sql"), filepath.Join(shared, "sql/deep/q.sql")},
		{p.path("assets/css/a.css"), "assets/css/a.css"},
		{p.path("etc/app.toml"), "etc/app.toml"}, // again, by an editor that writes a new one
	} {
		p.write("other/x.html", fmt.Sprint(i))
		p.write(filepath.Join(shared, "sql/x.txt"), fmt.Sprint(i))
		p.write(change.path, fmt.Sprint(i))
		p.see(1+i/4, "supervisor: "+change.shown+" has changed: reloading")
		p.see(i+1, "is in force")
	}
	if p.reloads != 5 {
		t.Errorf("%d reloads", p.reloads)
	}
	if d := p.mode.Describe(); !strings.Contains(d, "nothing is built") {
		t.Error(d)
	}
}

// When there is more than the kernel remembers, everything is looked at.
func TestOverflow(t *testing.T) {
	t.Parallel()
	p := start(t, ":", map[string]string{"a.go": "a", "b.go": "b", "d/c.go": "c"}, nil)
	defer p.mode.Close()
	p.write("a.go", "A")
	p.write("new/e.go", "e")
	os.Remove(p.path("b.go"))
	p.mode.files.pending = map[string]bool{}
	p.mode.files.noteAll()
	if names := p.mode.files.changed(); !slices.Equal(names, []string{"a.go", "b.go", "new/e.go"}) {
		t.Errorf("%q", names)
	}
	if !p.mode.files.watched[p.path("new")] {
		t.Error("the new directory is not watched")
	}
	p.run()
	p.mode.files.watcher.Errors <- fsnotify.ErrEventOverflow
	p.write("d/c.go", "C")
	p.see(1, "is in force")
}

func TestDirectoryThatIsNotThere(t *testing.T) {
	for pattern, want := range map[string]string{"../nowhere-at-all/*.sql": "*.sql: stat ", "/nowhere-at-all/**": "no such file"} {
		if _, err := New(Options{Dir: t.TempDir(), Watch: []string{pattern}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}

func TestReaches(t *testing.T) {
	for _, test := range []struct {
		glob, dir string
		want      bool
	}{
		{"**/*.go", "a/b/c", true}, {"go.mod", ".", true}, {"go.mod", "a", false}, {"templates/**", "templates", true}, {"templates/**", "templates/a/b", true},
		{"templates/**", "static", false}, {"a/*/c/*.x", "a/b", true}, {"a/*/c/*.x", "a/b/c", true}, {"a/*/c/*.x", "a/b/d", false}, {"a/*/c/*.x", "a/b/c/d", false},
		{"{a/b,c}/*.x", "a", true}, {"a*/x.go", "b", false}, {"a*/x.go", "abc", true},
	} {
		if got := reaches(test.glob, test.dir); got != test.want {
			t.Errorf("%s below %s: %v", test.glob, test.dir, got)
		}
	}
}

func TestRules(t *testing.T) {
	for _, test := range []struct {
		pattern, path string
		want          bool
	}{
		{"vendor", "vendor/a/b.go", true}, {"vendor", "x/vendor/a", true}, {"vendor", "vendors/a", false}, {"/bin", "bin/app", true}, {"/bin", "cmd/bin/x.go", false},
		{".*", ".git/HEAD", true}, {".*", "a/.x.go.swp", true}, {".*", "a.b/c.d", false}, {"*~", "a/b.go~", true}, {"docs/", "docs/a/x.go", true}, {"a/**/gen", "a/b/gen/x.go", true},
		{"*_test.go", "x/y_test.go", true}, {"*_test.go", "x/y.go", false}, {"a/b.go", "a/b.go", true}, {"a/b.go", "c/a/b.go", false},
	} {
		if got := newRule(test.pattern).matches(test.path); got != test.want {
			t.Errorf("%s about %s: %v", test.pattern, test.path, got)
		}
	}
}

func TestOutputIsBounded(t *testing.T) {
	out, err := runCommand(context.Background(), t.TempDir(), []string{"sh", "-c", "yes line | head -c 1000000; exit 1"})
	r := result{command: []string{"go", "build", "-ldflags", "-s -w"}, output: out, err: err, took: time.Second}
	if text := r.text(); len(out) != mostBytes || strings.Count(text, "\n") != mostLines || !strings.HasSuffix(text, "lines more") {
		t.Errorf("%d bytes, %d lines", len(out), strings.Count(text, "\n"))
	}
	if title := r.title(); title != "go build -ldflags '-s -w': exit status 1, after 1s" {
		t.Error(title)
	}
	if _, err := runCommand(context.Background(), t.TempDir(), []string{"no-such-compiler"}); err == nil || !strings.Contains(err.Error(), "no-such-compiler") {
		t.Error(err)
	}
}
