package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"supervisor/pkg/config"
)

// pin holds the executable and the working directory that a pool had when its configuration was read. A respawn runs these, whatever
// the names stand for by then: a deploy that has replaced the files takes effect at the reload, for all workers, not at the next crash
// for one. Only used by the loop. A nil pin holds nothing.
//
// A worker is executed by path while the path still names the pinned file, so that it looks as usual to ps, and by descriptor otherwise
// (its comm is then the descriptor's number). What no descriptor can hold: a script, whose interpreter opens it by path; a file that was
// rewritten in place, which the kernel allows only while nobody executes it (ETXTBSY); what the program itself opens later.
type pin struct {
	dir  int    // O_PATH descriptor of chdir; -1: ours
	file int    // O_PATH descriptor of the executable; -1: not found, the stub will say why
	path string // of the executable, as seen from dir
	was  unix.Stat_t

	byPath bool // a script
	said   bool // the log knows that the file has changed
}

// openPin finds what cfg names now. What it cannot open is left to the stub, which looks as the worker's user and reports.
func openPin(cfg *config.Pool) *pin {
	p := &pin{dir: -1, file: -1}
	if cfg.Chdir != "" {
		dir, err := unix.Open(cfg.Chdir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return p
		}
		p.dir = dir
	}
	p.find(cfg)
	return p
}

// base is the directory from which path is seen.
func (p *pin) base() int {
	if p.dir < 0 {
		return unix.AT_FDCWD
	}
	return p.dir
}

// find looks the executable up as the stub would: in the worker's PATH, from the worker's directory.
func (p *pin) find(cfg *config.Pool) {
	for _, path := range cfg.CommandPaths(cfg.Command[0]) {
		fd, err := unix.Openat(p.base(), path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		err = unix.Fstat(fd, &p.was)
		if err != nil || p.was.Mode&unix.S_IFMT != unix.S_IFREG || p.was.Mode&0o111 == 0 {
			unix.Close(fd)
			continue
		}
		p.file, p.path, p.byPath = fd, path, isScript(fd)
		return
	}
}

// isScript reports whether a file is no ELF program. What we may not read is one: an interpreter could not read a script either.
func isScript(fd int) bool {
	f, err := os.Open(descriptorPath(fd))
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 4)
	n, _ := f.Read(head)
	return !bytes.Equal(head[:n], []byte("\x7fELF"))
}

// checkPin makes ready for a spawn: a file that was not there at first is looked for again, and the log hears once what differs from
// what was pinned.
func (s *Supervisor) checkPin(p *pin, cfg *config.Pool) {
	if p == nil {
		return
	}
	if p.dir < 0 && cfg.Chdir != "" || p.file < 0 {
		p.Close()
		*p = *openPin(cfg)
	}
	if p.file < 0 || p.said {
		return
	}
	var now unix.Stat_t
	err := unix.Fstatat(p.base(), p.path, &now, 0)
	replaced := err != nil || now.Ino != p.was.Ino || now.Dev != p.was.Dev
	rewritten := !replaced && (now.Mtim != p.was.Mtim || now.Size != p.was.Size)
	log := s.log.With(zap.String("pool", cfg.Name), zap.String("path", p.path))
	switch {
	case p.byPath && (replaced || rewritten):
		log.Warn("the script was changed without a reload: workers that start run what its file holds now")
	case replaced:
		log.Warn("the command was replaced without a reload: workers that start run the one of their generation, which is held open")
	case rewritten:
		log.Warn("the command was rewritten in place without a reload: its old content is gone, workers that start run the new one")
	}
	p.said = replaced || rewritten
}

// pass adds the pinned files to a new process's descriptors, beyond those that stay open in the program.
func (p *pin) pass(spec *stubSpec, files []uintptr) []uintptr {
	if p == nil {
		return files
	}
	files = p.passDir(spec, files)
	if p.file < 0 {
		return files
	}
	spec.Path = p.path
	if p.byPath {
		return files
	}
	spec.FileFD = len(files)
	return append(files, uintptr(p.file))
}

// passDir adds the pinned directory.
func (p *pin) passDir(spec *stubSpec, files []uintptr) []uintptr {
	if p == nil || p.dir < 0 {
		return files
	}
	spec.DirFD = len(files)
	return append(files, uintptr(p.dir))
}

// snapshot describes the pin and adds its descriptors.
func (p *pin) snapshot(fds map[string]int) (s pinSnapshot) {
	if p == nil {
		return s
	}
	add := func(fd int) string {
		var file unix.Stat_t
		if fd < 0 || unix.Fstat(fd, &file) != nil {
			return ""
		}
		name := pinDescriptor(file.Dev, file.Ino)
		fds[name] = fd
		return name
	}
	return pinSnapshot{Dir: add(p.dir), File: add(p.file), Path: p.path}
}

// pinOf gives a pin of the supervisor before us. Pools that run the same file share its descriptor, so they stay with the bundle.
func (b *bundle) pinOf(s pinSnapshot) (*pin, error) {
	held := &pin{dir: -1, path: s.Path}
	var ok bool
	if held.file, ok = b.fds[s.File]; ok && s.Dir != "" {
		held.dir, ok = b.fds[s.Dir]
	}
	if !ok {
		return nil, errors.New("its descriptors are missing")
	}
	if err := unix.Fstat(held.file, &held.was); err != nil {
		return nil, err
	}
	held.byPath = isScript(held.file)
	return held.again()
}

// again gives another pin of the same files.
func (p *pin) again() (_ *pin, err error) {
	if p == nil {
		return nil, nil
	}
	q := *p
	q.dir, q.file = -1, -1
	if q.dir, err = openAgain(p.dir); err == nil {
		q.file, err = openAgain(p.file)
	}
	if err != nil {
		q.Close()
		return nil, fmt.Errorf("pin %s: %w", p.path, err)
	}
	return &q, nil
}

// openAgain gives another descriptor of a file: by its name where that is still the file's, since the descriptor of a supervisor before us
// may belong to a mount namespace that goes with its last process (systemd makes one for each start), and a directory in there has no
// path any more.
func openAgain(fd int) (int, error) {
	if fd < 0 {
		return -1, nil
	}
	var held, named unix.Stat_t
	if path, err := os.Readlink(descriptorPath(fd)); err == nil && unix.Fstat(fd, &held) == nil {
		again, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err == nil && unix.Fstat(again, &named) == nil && named.Dev == held.Dev && named.Ino == held.Ino {
			return again, nil
		}
		if err == nil {
			unix.Close(again)
		}
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

// Close lets go of the files.
func (p *pin) Close() {
	if p == nil {
		return
	}
	for _, fd := range []*int{&p.dir, &p.file} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}
