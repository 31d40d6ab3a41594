package tasks

import (
	"context"
	"slices"
	"testing"
	"time"
)

func TestLimitsBindAllRunnersOfAQueueTogether(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		running, release := make(chan string, 100), make(chan struct{})
		mux := NewMux()
		mux.Handle("x", func(context.Context, *Job) ([]byte, error) { running <- ""; <-release; return nil, nil })
		if err := e.c().Limit(t.Context(), "default", Limit{Concurrency: 3}); err != nil {
			t.Fatal(err)
		}
		if l, err := e.c().Limited(t.Context(), "default"); err != nil || l != (Limit{Concurrency: 3, Burst: 1}) {
			t.Errorf("%+v, %v", l, err)
		}
		for range 10 {
			e.enqueue("x")
		}
		a, b := e.run(mux, RunnerOptions{Concurrency: 2}), e.run(mux, RunnerOptions{Concurrency: 5})
		for range 3 {
			<-running
		}
		for claims := a.Counts().Claims + b.Counts().Claims; a.Counts().Claims+b.Counts().Claims < claims+3; {
			time.Sleep(10 * time.Millisecond)
		}
		if books := e.books(); books.Running != 3 || books.Pending != 7 {
			t.Errorf("books %+v", books)
		}
		// Each end lets the next one in, without waiting for anybody's look.
		start := time.Now()
		for range 5 {
			release <- struct{}{}
			<-running
		}
		t.Logf("five after another took %s", time.Since(start))
		if books := e.books(); books.Running != 3 {
			t.Errorf("books %+v", books)
		}
		close(release)
		e.rest()

		if err := e.c().Limit(t.Context(), "default", Limit{}); err != nil {
			t.Fatal(err)
		}
		if l, err := e.c().Limited(t.Context(), "default"); err != nil || l != (Limit{}) {
			t.Errorf("%+v, %v", l, err)
		}
		e.enqueue("x")
		e.rest()
	})
}

func TestARateLetsTheBurstInAtOnceAndTheRestAtItsPace(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, e *env) {
		if err := e.c().Limit(t.Context(), "default", Limit{PerSecond: 20, Burst: 4}); err != nil {
			t.Fatal(err)
		}
		began := make(chan string, 100)
		for range 12 {
			e.enqueue("x")
		}
		start := time.Now()
		for range 3 {
			e.run(noting(began), RunnerOptions{})
		}
		for range 12 {
			<-began
		}
		// The bucket was full: 8 of 12 wait for a token of 50 ms. At the end each runner would look once a second anyway.
		if took := time.Since(start); took < 8*50*time.Millisecond-5*time.Millisecond {
			t.Errorf("12 jobs began within %s", took)
		} else {
			t.Logf("12 jobs began within %s", took)
		}
		e.rest()
	})
}

func TestWeightsDrawTheOrderOfPriorities(t *testing.T) {
	t.Parallel()
	first := map[byte]int{}
	for range 4000 {
		order := []byte(Weights{6, 3, 1, 0}.order())
		first[order[0]]++
		slices.Sort(order)
		if string(order) != "0123" {
			t.Fatalf("%s", order)
		}
	}
	if first['3'] != 0 || first['0'] < 2100 || first['0'] > 2700 || first['1'] < 950 || first['2'] < 250 {
		t.Errorf("asked first: %v", first)
	}
	if (Weights{}).order() != "0123" || (Weights{0, 0, 0, 1}).order() != "3012" {
		t.Error("not strict, or weights of 0 not last")
	}
}
