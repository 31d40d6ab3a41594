package scoreboard

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Open gives the supervisor's side of a worker's memory that another supervisor made. The descriptor stays the caller's.
func Open(fd int) (*Reader, error) {
	mem, err := mapWhole(fd)
	if err != nil {
		return nil, err
	}
	return &Reader{mem: mem, clock: newClock()}, nil
}

// Create makes the memory of one worker and gives the supervisor's side of it and the descriptor for the worker (close-on-exec;
// the caller closes it). It is sealed: nobody can shrink it under a reader.
func Create(s Settings) (*Reader, int, error) {
	fd, err := unix.MemfdCreate("scoreboard", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, -1, fmt.Errorf("scoreboard: memfd_create: %w", err)
	}
	mem, err := func() (memory, error) {
		if err := unix.Ftruncate(fd, Size); err != nil {
			return nil, fmt.Errorf("scoreboard: ftruncate: %w", err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
			return nil, fmt.Errorf("scoreboard: seal: %w", err)
		}
		return mmap(fd)
	}()
	if err != nil {
		unix.Close(fd)
		return nil, -1, err
	}
	mem.store(offVersion, Version)
	mem.setSettings(s)
	mem.store(offMagic, magic)
	return &Reader{mem: mem, clock: newClock()}, fd, nil
}

// Close unmaps the memory, unless somebody holds it. Who calls it must not use the Reader afterwards.
func (r *Reader) Close() error {
	if r.holds.Add(-1) >= 0 {
		return nil
	}
	return unix.Munmap(r.mem)
}

// Attach maps the memory that the supervisor passed and closes the descriptor. An error says why this worker must run unscored.
func Attach(fd int) (*Writer, error) {
	defer unix.Close(fd)
	mem, err := mapWhole(fd)
	if err != nil {
		return nil, err
	}
	return newWriter(mem), nil
}

// mapWhole maps a memory that somebody else made, if it is one of our version.
func mapWhole(fd int) (memory, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("scoreboard: fd %d: %w", fd, err)
	}
	if st.Size < headerSize {
		return nil, fmt.Errorf("scoreboard: fd %d has %d bytes", fd, st.Size)
	}
	head, err := unix.Mmap(fd, 0, headerSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("scoreboard: mmap: %w", err)
	}
	err = check(head)
	unix.Munmap(head)
	if err != nil {
		return nil, err
	}
	if st.Size < Size {
		return nil, fmt.Errorf("scoreboard: fd %d has %d bytes, want %d", fd, st.Size, Size)
	}
	return mmap(fd)
}

func mmap(fd int) (memory, error) {
	mem, err := unix.Mmap(fd, 0, Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("scoreboard: mmap: %w", err)
	}
	return mem, nil
}

func monotonic() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with these arguments
	return ts.Nano()
}
