package profile

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// waits is a place for goroutines to be seen at.
func waits(end <-chan struct{}, ended *sync.WaitGroup) {
	ended.Go(func() { <-end })
}

func TestGoroutinesOneByOne_ManyByPlace(t *testing.T) {
	end := make(chan struct{})
	var ended sync.WaitGroup
	defer ended.Wait()
	defer close(end)
	// They are seen there once they have come to run.
	until := func(is func(text string) bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			text, err := Take(context.Background(), Goroutines, 0)
			if err != nil {
				t.Fatal(err)
			}
			if is(string(text)) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d bytes: %.2000s", len(text), text)
			}
		}
	}
	waits(end, &ended)
	until(func(text string) bool {
		return strings.Contains(text, "[chan receive") && strings.Contains(text, "waits.func") && strings.Contains(text, "created by")
	})
	for range maxSingle {
		waits(end, &ended)
	}
	until(func(text string) bool {
		return strings.HasPrefix(text, "goroutine profile: total ") && strings.Contains(text, "waits.func") && len(text) < 20_000
	})
}

func TestProfilesAreForPprof(t *testing.T) {
	for _, k := range []Kind{Heap, Allocs, CPU} {
		data, err := Take(context.Background(), k, 50*time.Millisecond)
		if err != nil || !k.Binary() || !k.Valid() {
			t.Fatalf("%s: %v", k, err)
		}
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", k, err)
		}
		if data, err = io.ReadAll(z); err != nil || len(data) == 0 {
			t.Errorf("%s: %d bytes, %v", k, len(data), err)
		}
	}
}

func TestOneCPUProfileAtATime_AndItsAskerEndsIt(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan error)
	go func() {
		for { // the other tests have some, too
			_, err := Take(ctx, CPU, MaxTime)
			if !errors.Is(err, ErrBusy) {
				ended <- err
				return
			}
		}
	}()
	for { // until it runs
		_, err := Take(context.Background(), CPU, time.Millisecond)
		if errors.Is(err, ErrBusy) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	gone := errors.New("the asker is gone")
	cancel(gone)
	if err := <-ended; !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
	if _, err := Take(context.Background(), CPU, time.Millisecond); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func TestTurnsEndWithTheAsker(t *testing.T) {
	turn <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Take(ctx, Heap, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-turn
}

func TestWhatIsTooLarge(t *testing.T) {
	piece := make([]byte, MaxSize-1)
	for _, cuts := range []bool{true, false} {
		b := &bounded{cuts: cuts}
		b.Write(piece)
		n, err := b.Write([]byte("four"))
		data, failed := b.of(nil)
		if cuts && (n != 4 || err != nil || failed != nil || len(data) != MaxSize) || !cuts && (err == nil || failed == nil || data != nil) {
			t.Errorf("cuts %v: %d, %v; %d bytes, %v", cuts, n, err, len(data), failed)
		}
	}
	for _, d := range []time.Duration{0, -1, MaxTime + 1} {
		if _, err := Take(context.Background(), CPU, d); err == nil {
			t.Errorf("a profile of %v", d)
		}
	}
	if _, err := Take(context.Background(), "nonsense", 0); err == nil || Kind("nonsense").Valid() {
		t.Error("nonsense was taken")
	}
}
