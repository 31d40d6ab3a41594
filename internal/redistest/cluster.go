package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Cluster is some redis-servers that share the slots.
type Cluster struct {
	Masters  []*Server // as they began
	Replicas []*Server // Replicas[i] of Masters[i]; none if they were not asked for
}

const slots = 16384

// NewCluster makes a cluster in dir. A node that is silent for as long as timeout is replaced by its replica.
func NewCluster(dir string, masters int, replicas bool, timeout time.Duration) (c *Cluster, err error) {
	c = new(Cluster)
	defer func() {
		if err != nil {
			c.Kill()
		}
	}()
	nodes := masters
	if replicas {
		nodes *= 2
	}
	bus := make(map[*Server]string)
	for i := range nodes {
		own := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(own, 0o700); err != nil {
			return c, err
		}
		var second string
		s, err := launch(own, func(port, other string) []string {
			second = other
			return []string{
				"--bind", "127.0.0.1", "--port", port, "--dir", own, "--appendonly", "yes", "--save", "", "--logfile", filepath.Join(own, "log"),
				"--cluster-enabled", "yes", "--cluster-port", other, "--cluster-node-timeout", strconv.FormatInt(timeout.Milliseconds(), 10),
				"--repl-diskless-sync-delay", "0",
			}
		})
		if err != nil {
			return c, err
		}
		bus[s] = second
		if i < masters {
			c.Masters = append(c.Masters, s)
		} else {
			c.Replicas = append(c.Replicas, s)
		}
	}
	first := c.Masters[0]
	for i, s := range c.all() {
		if _, err := s.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1)); err != nil {
			return c, err
		}
		if i < masters {
			from, to := i*slots/masters, (i+1)*slots/masters-1
			if _, err := s.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(from), strconv.Itoa(to)); err != nil {
				return c, err
			}
		}
		if i > 0 {
			if _, err := first.Do("CLUSTER", "MEET", "127.0.0.1", s.Port, bus[s]); err != nil {
				return c, err
			}
		}
	}
	for i, s := range c.Replicas {
		answer, err := c.Masters[i].Do("CLUSTER", "MYID")
		if err != nil {
			return c, err
		}
		id, _ := answer.ToString()
		if err := await("a replica", func() bool { _, err := s.Do("CLUSTER", "REPLICATE", id); return err == nil }); err != nil {
			return c, err
		}
	}
	return c, c.Ready()
}

// Ready waits until every node that lives knows all of them, and every slot is served. With replicas: until they hold what their masters do.
func (c *Cluster) Ready() error {
	for _, s := range c.all() {
		err := await(s.Addr()+" is one of the cluster", func() bool {
			answer, err := s.Do("CLUSTER", "INFO")
			if err != nil {
				return false
			}
			facts, _ := fields(answer)
			return facts["cluster_state"] == "ok" && facts["cluster_slots_ok"] == strconv.Itoa(slots) &&
				facts["cluster_known_nodes"] == strconv.Itoa(len(c.all()))
		})
		if err != nil {
			return err
		}
	}
	for _, s := range c.Replicas {
		err := await(s.Addr()+" replicates", func() bool {
			facts, _ := s.Info("replication")
			return facts["role"] == "master" || facts["master_link_status"] == "up"
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) all() []*Server { return append(append([]*Server(nil), c.Masters...), c.Replicas...) }

// URL names all nodes.
func (c *Cluster) URL() string {
	var more []string
	for _, s := range c.all()[1:] {
		more = append(more, "addr="+s.Addr())
	}
	return c.Masters[0].URL() + "?" + strings.Join(more, "&")
}

// MasterOf gives the pair in which key lies: who began as its master, and that one's replica (nil: none).
func (c *Cluster) MasterOf(key string) (master, replica *Server, err error) {
	answer, err := c.Masters[0].Do("CLUSTER", "KEYSLOT", key)
	if err != nil {
		return nil, nil, err
	}
	slot, err := answer.AsInt64()
	if err != nil {
		return nil, nil, fmt.Errorf("slot of %q: %w", key, err)
	}
	for i, s := range c.Masters {
		if int(slot) < (i+1)*slots/len(c.Masters) {
			if i < len(c.Replicas) {
				replica = c.Replicas[i]
			}
			return s, replica, nil
		}
	}
	return nil, nil, fmt.Errorf("slot %d of %q is nobody's", slot, key)
}

// Kill ends all nodes.
func (c *Cluster) Kill() {
	for _, s := range c.all() {
		s.Kill()
	}
}
