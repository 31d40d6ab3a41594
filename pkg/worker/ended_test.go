package worker

import (
	"io"
	"testing"

	"supervisor/pkg/protocol"
)

// A drain move ends, and the stop's drain close is on its way already.
func TestNoCommandBringsAWorkerBackFromItsEnd(t *testing.T) {
	w := newWorker(inheritance{})
	w.mu.Lock()
	g := w.newGate(socket{}, nil)
	w.mu.Unlock()
	w.drain(protocol.DrainMove)
	w.finish()
	for name, command := range map[string]func(){
		"drain close": func() { w.drain(protocol.DrainClose) },
		"drain move":  func() { w.drain(protocol.DrainMove) },
		"undrain":     w.undrain,
		"finish":      w.finish,
	} {
		command()
		if mode := w.mode.Load(); mode != ended {
			t.Fatalf("after %s the mode is %d", name, mode)
		}
		if err := g.admit(); err != io.EOF {
			t.Errorf("after %s a gate says %v", name, err)
		}
	}
}
