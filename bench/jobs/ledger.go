package main

import (
	"bytes"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"
)

// ledger knows of each job how often its handler began. Shared and safe.
type ledger struct {
	next  atomic.Int64
	begun atomic.Int64
	count []atomic.Int32 // by index
}

// event is the begin of a handler.
type event struct {
	index int
	at    time.Time
}

func newLedger(size int) *ledger { return &ledger{count: make([]atomic.Int32, size)} }

// issue returns the payload of the next job: its index in 8 digits, then filling.
func (l *ledger) issue() []byte {
	index := l.next.Add(1) - 1
	return fmt.Appendf(make([]byte, 0, payloadSize), "%08d%s", index, bytes.Repeat([]byte("x"), payloadSize-8))
}

func (l *ledger) issued() int { return int(l.next.Load()) }
func (l *ledger) runs() int   { return int(l.begun.Load()) }

// began notes that a handler has begun, and returns which job's.
func (l *ledger) began(payload []byte) int {
	index := indexOf(payload)
	if index >= 0 && index < len(l.count) && len(payload) == payloadSize {
		l.count[index].Add(1)
	}
	l.begun.Add(1)
	return index
}

// check returns nil if each job that was issued has begun exactly once.
func (l *ledger) check() error {
	lost, twice := 0, 0
	for i := range l.issued() {
		switch n := l.count[i].Load(); {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
	}
	if lost > 0 || twice > 0 || l.runs() != l.issued() {
		return fmt.Errorf("of %d jobs %d never began and %d began more than once; handlers began %d times", l.issued(), lost, twice, l.runs())
	}
	return nil
}

func indexOf(payload []byte) int {
	if len(payload) < 8 {
		return -1
	}
	index, err := strconv.Atoi(string(payload[:8]))
	if err != nil {
		return -1
	}
	return index
}
