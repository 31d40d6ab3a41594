package devmode

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// files are the files that count. The kernel tells of changes in directories (inotify, one watch for each), so every directory is watched that may
// hold such a file; a file itself is not: editors write a new one and give it the old one's name. Whether a file has really changed,
// its content says: a build that writes what it reads would never come to its end.
type files struct {
	watcher *fsnotify.Watcher
	dir     string // for the names that people see
	trees   []tree
	single  map[string]bool // paths
	ignore  []rule
	watched map[string]bool   // directories
	known   map[string]uint64 // sums by path, of the files that count
	pending map[string]bool   // paths that something was told of
	seed    maphash.Seed
}

// tree is a directory and patterns for what is in it.
type tree struct {
	base  string // absolute
	globs []string
}

// rule is a pattern of what does not count, as in .gitignore: without a slash it is about names at any depth, with one about the path below
// the tree's base. What is in an ignored directory is ignored.
type rule struct {
	glob   string
	onPath bool
}

func newRule(pattern string) rule {
	glob := strings.TrimSuffix(pattern, "/")
	return rule{strings.TrimPrefix(glob, "/"), strings.Contains(glob, "/")}
}

// matches reports whether the rule is about a path below a base, or about a directory above it.
func (r rule) matches(rel string) bool {
	for end := 0; end < len(rel); end++ {
		next := strings.IndexByte(rel[end:], '/')
		if next < 0 {
			next = len(rel) - end
		}
		end += next
		part := rel[:end]
		if !r.onPath {
			part = path.Base(part)
		}
		if doublestar.MatchUnvalidated(r.glob, part) {
			return true
		}
	}
	return false
}

// watchFiles begins to watch, and notes what the files are like now.
func watchFiles(o Options) (_ *files, err error) {
	f := &files{
		dir: o.Dir, single: map[string]bool{}, watched: map[string]bool{}, known: map[string]uint64{}, pending: map[string]bool{},
		seed: maphash.MakeSeed(),
	}
	here := tree{base: o.Dir}
	for _, glob := range o.Watch {
		glob = filepath.ToSlash(filepath.Clean(glob))
		if !filepath.IsAbs(glob) && !strings.HasPrefix(glob, "../") {
			here.globs = append(here.globs, glob)
			continue
		}
		base, rest := doublestar.SplitPattern(glob)
		if !filepath.IsAbs(base) {
			base = filepath.Join(o.Dir, base)
		}
		f.trees = append(f.trees, tree{base, []string{rest}})
	}
	f.trees = append(f.trees, here)
	for _, pattern := range o.Ignore {
		f.ignore = append(f.ignore, newRule(pattern))
	}
	if f.watcher, err = fsnotify.NewWatcher(); err != nil {
		if errors.Is(err, unix.EMFILE) {
			err = fmt.Errorf("the kernel's limit of inotify instances is reached (fs.inotify.max_user_instances = %s): raise it with sysctl, or end other "+
				"programs that watch files", limit("max_user_instances"))
		}
		return nil, err
	}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	for _, name := range o.Files {
		if !filepath.IsAbs(name) {
			name = filepath.Join(o.Dir, name)
		}
		f.single[name] = true
		if err := f.add(filepath.Dir(name)); err != nil {
			return nil, err
		}
		f.known[name] = f.sum(name)
	}
	for _, t := range f.trees {
		if _, err := os.Stat(t.base); err != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(t.globs, " "), err)
		}
		found, err := f.walk(t.base)
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			f.known[path] = f.sum(path)
		}
	}
	return f, nil
}

func (f *files) close() { f.watcher.Close() }

// limit reads one of the kernel's.
func limit(name string) string {
	text, _ := os.ReadFile("/proc/sys/fs/inotify/" + name)
	return strings.TrimSpace(string(text))
}

// add watches a directory. One that is gone by now is none.
func (f *files) add(dir string) error {
	if f.watched[dir] {
		return nil
	}
	err := f.watcher.Add(dir)
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("the kernel's limit of inotify watches is reached at %s, after %d directories (fs.inotify.max_user_watches = %s): raise it, as in "+
			"sysctl fs.inotify.max_user_watches=524288, or leave directories out with ignore in [dev]", f.name(dir), len(f.watched), limit("max_user_watches"))
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTDIR):
		return nil
	case err != nil:
		return fmt.Errorf("watch %s: %w", f.name(dir), err)
	}
	f.watched[dir] = true
	return nil
}

// walk watches what is to be watched of a directory and below, and gives the files there that count. Symbolic links are not followed.
func (f *files) walk(root string) (found []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && d != nil && d.IsDir():
			return fs.SkipDir // gone by now, or not ours to read
		case err != nil:
			return nil
		case !d.IsDir():
			if f.counts(path) {
				found = append(found, path)
			}
			return nil
		case !f.mayHold(path):
			return fs.SkipDir
		}
		return f.add(path) // before it is read: what comes later is told
	})
	return found, err
}

// below gives a path as seen from a base; "" when it is not below it, "." for the base.
func below(base, path string) string {
	if path == base {
		return "."
	}
	if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(base, "/")+"/"); ok {
		return rest
	}
	return ""
}

func (f *files) ignored(rel string) bool {
	return rel != "." && slices.ContainsFunc(f.ignore, func(r rule) bool { return r.matches(rel) })
}

// counts reports whether a change of the file is to be built.
func (f *files) counts(path string) bool {
	if f.single[path] {
		return true
	}
	for _, t := range f.trees {
		rel := below(t.base, path)
		if rel == "" || rel == "." || f.ignored(rel) {
			continue
		}
		for _, glob := range t.globs {
			if doublestar.MatchUnvalidated(glob, rel) {
				return true
			}
		}
	}
	return false
}

// mayHold reports whether a file that counts may be in the directory, or below it.
func (f *files) mayHold(dir string) bool {
	for _, t := range f.trees {
		rel := below(t.base, dir)
		if rel == "" || f.ignored(rel) {
			continue
		}
		for _, glob := range t.globs {
			if reaches(glob, rel) {
				return true
			}
		}
	}
	return false
}

// reaches reports whether something below a directory may match the pattern.
func reaches(glob, dir string) bool {
	if dir == "." || strings.ContainsAny(glob, "{") { // alternatives may hold slashes
		return true
	}
	parts := strings.Split(glob, "/")
	for i, name := range strings.Split(dir, "/") {
		switch {
		case parts[min(i, len(parts)-1)] == "**":
			return true
		case i >= len(parts)-1 || !doublestar.MatchUnvalidated(parts[i], name):
			return false
		}
	}
	return true
}

// note takes in what the kernel told, and reports whether it may be a change.
func (f *files) note(e fsnotify.Event) (bool, error) {
	if e.Op == fsnotify.Chmod {
		return false, nil
	}
	if f.watched[e.Name] && e.Op&(fsnotify.Remove|fsnotify.Rename) != 0 { // a directory went, and all below it
		for dir := range f.watched {
			if below(e.Name, dir) != "" {
				delete(f.watched, dir)
				f.watcher.Remove(dir) // it may live on under another name
			}
		}
		for path := range f.known {
			if below(e.Name, path) != "" {
				f.pending[path] = true
			}
		}
		return true, nil
	}
	if e.Op&fsnotify.Create != 0 {
		if info, err := os.Lstat(e.Name); err == nil && info.IsDir() {
			if !f.mayHold(e.Name) {
				return false, nil
			}
			found, err := f.walk(e.Name)
			for _, path := range found { // they may have been there before the watch
				f.pending[path] = true
			}
			return len(found) > 0, err
		}
	}
	if !f.counts(e.Name) {
		return false, nil
	}
	f.pending[e.Name] = true
	return true, nil
}

// noteAll is for when the kernel could not tell everything: whatever there is may have changed.
func (f *files) noteAll() {
	for path := range f.known {
		f.pending[path] = true
	}
	for _, t := range f.trees {
		found, _ := f.walk(t.base)
		for _, path := range found {
			f.pending[path] = true
		}
	}
}

// changed gives the names of the files whose content has changed since it was last asked, of those that something was told of.
func (f *files) changed() []string {
	var names []string
	for path := range f.pending {
		before, known := f.known[path]
		now := f.sum(path)
		switch {
		case now == before && known, now == gone && !known:
			continue
		case now == gone && !f.single[path]:
			delete(f.known, path)
		default:
			f.known[path] = now
		}
		names = append(names, f.name(path))
	}
	clear(f.pending)
	slices.Sort(names)
	return names
}

const (
	gone     = 0       // the sum of no file
	mostRead = 1 << 20 // bytes; of a larger file size and time tell
)

// sum tells one content of a file from another.
func (f *files) sum(path string) uint64 {
	info, err := os.Stat(path)
	if err != nil || info.IsDir() {
		return gone
	}
	var content []byte
	if info.Size() <= mostRead && info.Mode().IsRegular() {
		content, err = os.ReadFile(path)
	}
	if len(content) == 0 || err != nil {
		content = fmt.Append(nil, info.Size(), info.ModTime().UnixNano(), info.Mode())
		if info.Size() == 0 {
			content = nil
		}
	}
	return max(1, maphash.Bytes(f.seed, content))
}

// name shows a path to people.
func (f *files) name(path string) string {
	if rel := below(f.dir, path); rel != "" {
		return rel
	}
	return path
}
