package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Set is a primary with replicas, and Sentinels that watch them. Its name is "jobs".
type Set struct {
	Primary   *Server // as it began
	Replicas  []*Server
	Sentinels []*Server
}

// NewSet makes one in dir, of which most of the Sentinels replace the primary when it is silent for as long as down.
func NewSet(dir string, replicas, sentinels int, down time.Duration) (s *Set, err error) {
	s = new(Set)
	defer func() {
		if err != nil {
			s.Kill()
		}
	}()
	sub := func(name string) (string, error) {
		own := filepath.Join(dir, name)
		return own, os.MkdirAll(own, 0o700)
	}
	own, err := sub("primary")
	if err != nil {
		return s, err
	}
	if s.Primary, err = New(own); err != nil {
		return s, err
	}
	for i := range replicas {
		if own, err = sub(fmt.Sprintf("replica%d", i)); err != nil {
			return s, err
		}
		r, err := New(own, "--replicaof", "127.0.0.1 "+s.Primary.Port)
		if err != nil {
			return s, err
		}
		s.Replicas = append(s.Replicas, r)
	}
	if err := await("all replicas replicate", func() bool {
		facts, _ := s.Primary.Info("replication")
		online := 0
		for i := range replicas {
			if strings.Contains(facts[fmt.Sprintf("slave%d", i)], "state=online") {
				online++
			}
		}
		return online == replicas
	}); err != nil {
		return s, err
	}
	for i := range sentinels {
		if own, err = sub(fmt.Sprintf("sentinel%d", i)); err != nil {
			return s, err
		}
		file := filepath.Join(own, "sentinel.conf") // it writes into it
		text := fmt.Sprintf("sentinel monitor jobs 127.0.0.1 %s %d\nsentinel down-after-milliseconds jobs %d\nsentinel failover-timeout jobs 5000\n",
			s.Primary.Port, sentinels/2+1, down.Milliseconds())
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return s, err
		}
		one, err := launch(own, func(port, _ string) []string {
			return []string{file, "--sentinel", "--bind", "127.0.0.1", "--port", port, "--dir", own, "--logfile", filepath.Join(own, "log")}
		})
		if err != nil {
			return s, err
		}
		s.Sentinels = append(s.Sentinels, one)
	}
	for _, one := range s.Sentinels {
		want := fmt.Sprintf("slaves=%d,sentinels=%d", replicas, sentinels)
		if err := await("a sentinel knows the others", func() bool {
			facts, _ := one.Info("sentinel")
			return strings.Contains(facts["master0"], "status=ok") && strings.Contains(facts["master0"], want)
		}); err != nil {
			return s, err
		}
	}
	return s, nil
}

// URL names the Sentinels and the set.
func (s *Set) URL() string {
	query := "?master_set=jobs"
	for _, one := range s.Sentinels[1:] {
		query += "&addr=" + one.Addr()
	}
	return s.Sentinels[0].URL() + query
}

// Kill ends all processes.
func (s *Set) Kill() {
	for _, one := range append(append([]*Server{s.Primary}, s.Replicas...), s.Sentinels...) {
		if one != nil {
			one.Kill()
		}
	}
}
