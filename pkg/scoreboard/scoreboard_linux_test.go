package scoreboard

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSealedMemoryIsSharedByBothSides(t *testing.T) {
	r, fd, err := Create(Settings{KeepAlive: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := unix.Ftruncate(fd, 0); err == nil {
		t.Error("a worker could take the memory from under its reader")
	}
	if r.Joined() {
		t.Error("joined before Attach")
	}
	w, err := Attach(fd)
	if err != nil {
		t.Fatal(err)
	}
	w.Open().Add(Accepted, 3)
	w.SetState(Draining)
	if r.Total(Accepted) != 3 || r.State() != Draining || !r.Joined() || w.Settings().KeepAlive != time.Minute {
		t.Errorf("accepted %d, state %v, joined %v, settings %+v", r.Total(Accepted), r.State(), r.Joined(), w.Settings())
	}
	if age, ok := r.SinceBeat(); !ok || age > time.Minute {
		t.Errorf("beat %v, %v", age, ok)
	}
}

func TestAttachRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, spoil := range map[string]func(fd int){
		"version": func(fd int) { unix.Pwrite(fd, []byte{2}, offVersion) },
		"magic":   func(fd int) { unix.Pwrite(fd, []byte{0}, offMagic) },
	} {
		r, fd, err := Create(Settings{})
		if err != nil {
			t.Fatal(err)
		}
		spoil(fd)
		if w, err := Attach(fd); err == nil || w != nil {
			t.Errorf("%s: attached", name)
		}
		if r.Joined() {
			t.Errorf("%s: joined", name)
		}
		r.Close()
	}
	short, err := unix.MemfdCreate("short", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Attach(short); err == nil {
		t.Error("attached an empty file")
	}
	if _, err := Attach(9999); err == nil {
		t.Error("attached nothing")
	}
}
