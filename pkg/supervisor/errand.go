package supervisor

import (
	"context"
	"time"

	"go.uber.org/zap"

	"supervisor/pkg/control"
)

// errand is something that a client asked the loop for. Whoever asked may go away: it goes on.
type errand struct {
	begun   string               // in words
	at      time.Time            // when it was asked for
	verdict chan control.Verdict // gets one, of those that wait at the end
}

// asker is a client that asked for something.
type asker struct {
	gone context.Context // it is gone when this ends
	wait bool            // it waits for the end
	tell func(Verdict)   // the first one counts
}

// undertake begins something in the loop. An error says why it was not begun.
func (s *Supervisor) undertake(ctx context.Context, where, what string, wait bool, begin func(asker) (begun string, err error)) (*errand, error) {
	e := &errand{at: time.Now(), verdict: make(chan control.Verdict, 1)}
	asked := asker{ctx, wait, func(v Verdict) {
		select {
		case e.verdict <- wireVerdict(what, v):
		default:
		}
	}}
	var refused error
	err := s.inLoop(ctx, func() {
		if s.handing != nil || s.handedOver {
			refused = errSuccessor
			return
		}
		s.log.Info("control", zap.String("command", what), zap.String("from", where))
		s.record(control.EventSignal, control.LevelInfo, "asked on the %s: %s", where, what)
		e.begun, refused = begin(asked)
	})
	if err == nil {
		err = refused
	}
	return e, err
}

// end waits for the end.
func (e *errand) end(ctx context.Context, over <-chan struct{}) (control.Verdict, error) {
	select {
	case v := <-e.verdict:
		return e.wire(v), nil
	case <-ctx.Done():
		return control.Verdict{}, context.Cause(ctx)
	case <-over:
		select {
		case v := <-e.verdict: // the last words
			return e.wire(v), nil
		default:
			return control.Verdict{}, errLoopEnded
		}
	}
}

// wire adds what only the one who asked wants to know.
func (e *errand) wire(v control.Verdict) control.Verdict {
	if v.Took == 0 {
		v.Took = time.Since(e.at).Seconds()
	}
	v.Process = ourselves
	return v
}
