package tasks

import (
	"testing"

	"github.com/redis/rueidis"
)

// The job's own record does without its result then. What is saved again, or looked at again, must not take that for all there is.
func TestAResultThatIsKeptElsewhereIsNotOverwrittenWithNothing(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(e *env, p *proxy, mux *Mux) (id string){
		"the answer to its end was lost": func(e *env, p *proxy, mux *Mux) string {
			p.loseAnswer(ackScript)
			id := e.enqueue("x")
			until(e.t, "the answer is lost", func() bool { return p.lost.Load() == 1 })
			return id
		},
		"somebody cancels it too late": func(e *env, _ *proxy, _ *Mux) string {
			id := e.enqueue("x")
			e.await(id, Done)
			if state := e.cancel(id); state != "" {
				e.t.Errorf("cancel of a done job: %q", state)
			}
			e.owedNow()
			return id
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, realRedis(t).url())
			postgres := openPostgres(t, postgresURL(t), PostgresOptions{})
			e := newEnv(t, p.url())
			e.client = e.connect(Options{Results: postgres, Postgres: postgres})
			mux := new(ran).mux()
			r := e.run(mux, RunnerOptions{})
			e.await(e.enqueue("x"), Done) // now Redis knows the scripts
			id := again(e, p, mux)
			e.await(id, Done)
			until(t, "all was looked at", func() bool {
				owed, err := e.do(func(b rueidis.Builder) rueidis.Completed { return b.Zcard().Key(e.lane().owed()).Build() }).AsInt64()
				return err == nil && owed == 0
			})
			if err := r.halt(); err != nil {
				t.Error(err)
			}
			if result, err := e.c().Result(t.Context(), id); err != nil || string(result) != "done payload" {
				t.Errorf("its result: %q, %v", result, err)
			}
		})
	}
}
