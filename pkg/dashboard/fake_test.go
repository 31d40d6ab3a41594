package dashboard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"supervisor/pkg/control"
	"supervisor/pkg/operator"
)

const testToken operator.Token = "0123456789abcdef0123456789abcdef"

// fake is a supervisor: two pools whose workers count up.
type fake struct {
	mu      sync.Mutex
	status  control.Status
	err     error
	reads   int
	events  []control.Event
	more    chan struct{}
	did     []string
	faults  []error
	hang    chan struct{} // closed: what was asked for ends
	verdict control.Verdict
	token   operator.Token
}

func newFake(workers int) *fake {
	f := &fake{more: make(chan struct{}), hang: make(chan struct{}), verdict: control.Verdict{OK: true, Text: "generation 4 is in force", Generation: 4}, token: testToken}
	close(f.hang)
	st := control.Status{
		PID: 4711, Version: "v1.2.3", Instance: "abc", State: control.StateServing, Ready: true, Generation: 3, Uptime: 93784,
		Pools: []control.Pool{
			{Name: "web", Wanted: workers, Ready: workers, Generation: 3, Addresses: []string{"0.0.0.0:8080", "unix:/run/app/web.sock"}},
			{Name: "jobs", Wanted: 2, Ready: 2, Generation: 3, Addresses: []string{}},
		},
	}
	for i := range workers {
		st.Pools[0].Workers = append(st.Pools[0].Workers, control.Worker{
			Name: fmt.Sprintf("web.%d.%d", i, i+1), PID: 5000 + i, State: "ready", Generation: 3, Age: 3600, Scored: true, Memory: int64(40+i%5) << 20, Connections: 12, InFlight: 1,
		})
	}
	for i := range 2 {
		st.Pools[1].Workers = append(st.Pools[1].Workers, control.Worker{
			Name: fmt.Sprintf("jobs.%d.%d", i, i+1), PID: 6000 + i, State: "ready", Generation: 3, Age: 3600, Scored: true, Memory: 80 << 20,
		})
	}
	st.Pools[0].Listeners = []control.Listener{{Name: "web", Address: st.Pools[0].Addresses[0], Limit: 8192}, {Name: "web-2", Address: st.Pools[0].Addresses[1], Queued: 3, Limit: 2048}}
	for i := range 15 {
		st.LatencyBounds = append(st.LatencyBounds, 0.00025*float64(int(1)<<i))
	}
	for i := range st.Pools {
		st.Pools[i].Work.Latency = make([]uint64, 16)
	}
	f.status = st
	return f
}

// change changes what the next reading says.
func (f *fake) change(how func(st *control.Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how(&f.status)
}

// read gives a status of its own to the one who asks: since the last one each worker has done something.
func (f *fake) read(context.Context) (control.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if f.err != nil {
		return control.Status{}, f.err
	}
	f.work(func(i int) uint64 { return uint64(100 + 10*(f.reads%7) + 5*(i%3)) })
	return f.copied(), nil
}

// work lets each worker do so many requests.
func (f *fake) work(requests func(worker int) uint64) {
	for i := range f.status.Pools {
		p := &f.status.Pools[i]
		for j := range p.Workers {
			w := &p.Workers[j]
			if w.PID == 0 || !w.Scored {
				continue
			}
			n := requests(j)
			w.Requests += n
			w.CPU += 0.12
			p.Work.Requests += n
			p.Work.Latency[4] += n - n/10
			p.Work.Latency[7] += n / 10
			if p.Work.Requests%977 < n {
				p.Work.Errors++
			}
		}
	}
}

func (f *fake) copied() control.Status {
	st := f.status
	st.Pools = slices.Clone(st.Pools)
	for i := range st.Pools {
		st.Pools[i].Workers = slices.Clone(st.Pools[i].Workers)
		st.Pools[i].Work.Latency = slices.Clone(st.Pools[i].Work.Latency)
	}
	return st
}

// happens adds an event.
func (f *fake) happens(e control.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.Seq, e.At = uint64(len(f.events)+1), time.Now()
	if e.Level == "" {
		e.Level = control.LevelInfo
	}
	f.events = append(f.events, e)
	close(f.more)
	f.more = make(chan struct{})
}

func (f *fake) followEvents(ctx context.Context, send func(control.History) error) error {
	for at := 0; ; {
		f.mu.Lock()
		h, more := control.History{Events: slices.Clone(f.events[at:])}, f.more
		at = len(f.events)
		f.mu.Unlock()
		if err := send(h); err != nil {
			return err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fake) do(ctx context.Context, what string, begun func(string)) (control.Verdict, error) {
	f.mu.Lock()
	f.did = append(f.did, what)
	hang := f.hang
	f.mu.Unlock()
	begun(what + " has begun")
	select {
	case <-hang:
	case <-ctx.Done():
		return control.Verdict{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.verdict.Text == "" {
		return control.Verdict{}, errors.New("a self-upgrade runs: ask again when it has ended")
	}
	v := f.verdict
	v.What = what
	return v, nil
}

func (f *fake) options() Options {
	return Options{
		Token:  func() operator.Token { f.mu.Lock(); defer f.mu.Unlock(); return f.token },
		Read:   f.read,
		Follow: f.followEvents,
		Fault:  func(err error) { f.mu.Lock(); defer f.mu.Unlock(); f.faults = append(f.faults, err) },
		Reload: func(ctx context.Context, begun func(string)) (control.Verdict, error) {
			return f.do(ctx, "reload", begun)
		},
		Upgrade: func(ctx context.Context, begun func(string)) (control.Verdict, error) {
			return f.do(ctx, "upgrade", begun)
		},
		Scale: func(ctx context.Context, r control.ScaleRequest, begun func(string)) (control.Verdict, error) {
			return f.do(ctx, fmt.Sprintf("scale %s %+d", r.Pool, r.Delta), begun)
		},
		Recycle: func(ctx context.Context, r control.RecycleRequest, begun func(string)) (control.Verdict, error) {
			return f.do(ctx, "recycle "+r.Target, begun)
		},
	}
}
