package app

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestQueueLetsInAsManyAsThereAreSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{slots: make(chan struct{}, 2), longest: waitForSlot}
		inside := make(chan int, 100)
		for i := range 10 {
			go func() {
				if err := q.enter(); err != nil {
					t.Error(err)
					return
				}
				inside <- i
				time.Sleep(time.Second)
				q.leave()
			}()
		}
		for second := range 5 {
			synctest.Wait()
			if got := len(inside); got != 2*(second+1) {
				t.Errorf("after %d s %d have been let in", second, got)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestQueueGivesUpAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{slots: make(chan struct{}, 1), longest: waitForSlot}
		if err := q.enter(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := q.enter(); err == nil || time.Since(start) != waitForSlot {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		q.leave()
		if err := q.enter(); err != nil {
			t.Errorf("a free slot: %v", err)
		}
	})
}

func TestQueueHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{slots: make(chan struct{}, 1), longest: waitForSlot}
		q.slots <- struct{}{}
		for range waitingPerSlot {
			go q.enter()
		}
		synctest.Wait()
		start := time.Now()
		if err := q.enter(); err == nil || time.Since(start) != 0 {
			t.Errorf("%v after %v, want a refusal at once", err, time.Since(start))
		}
		time.Sleep(waitForSlot)
		synctest.Wait()
		if n := q.waiting.Load(); n != 0 {
			t.Errorf("%d are still counted", n)
		}
	})
}
