package tasks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"supervisor/internal/lazyredis"
)

// Check looks at the settings of the server, or of every node of a cluster, at the start of a program. An error means that it cannot be
// used, or with ErrUnavailable: not now; each warning is one sentence about how it may lose jobs, to be logged loudly.
func (c *Client) Check(ctx context.Context) (warnings []string, err error) {
	if err := c.Ping(ctx); err != nil {
		return nil, err
	}
	conn, err := c.calls.get(ctx)
	if err != nil {
		return nil, err
	}
	cluster := c.calls.Cluster()
	nodes := conn.Nodes()
	var errs []error
	for _, address := range slices.Sorted(maps.Keys(nodes)) {
		var found []string
		facts, err := c.factsOf(ctx, nodes[address])
		if err == nil {
			found, err = judge(facts, cluster)
		}
		switch {
		case err != nil && !cluster:
			return found, err
		case errors.Is(err, ErrUnavailable): // others may do its work
			found = append(found, err.Error())
		case err != nil:
			errs = append(errs, fmt.Errorf("node %s: %w", address, err))
		}
		for _, w := range found {
			if cluster {
				w = "node " + address + ": " + w
			}
			warnings = append(warnings, w)
		}
	}
	return warnings, errors.Join(errs...)
}

// factsOf asks one server what it tells of itself: INFO, and without the right to that what HELLO says.
func (c *Client) factsOf(ctx context.Context, node rueidis.Client) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	facts, err := lazyredis.Hello(ctx, node)
	if _, answered := rueidis.IsRedisErr(err); err != nil && !answered {
		return nil, redisError(ctx, err)
	}
	if version, ok := facts["version"]; ok {
		facts["redis_version"] = version
	}
	for _, section := range []string{"server", "memory", "persistence"} {
		text, err := node.Do(ctx, node.B().Info().Section(section).Build()).ToString()
		if _, answered := rueidis.IsRedisErr(err); err != nil && !answered {
			return nil, redisError(ctx, err)
		}
		for l := range strings.SplitSeq(text, "\r\n") {
			if key, value, ok := strings.Cut(l, ":"); ok {
				facts[key] = value
			}
		}
	}
	return facts, nil
}

// judge says what is wrong with one server.
func judge(facts map[string]string, cluster bool) (warnings []string, err error) {
	version, known := facts["redis_version"]
	policy, told := facts["maxmemory_policy"]
	switch {
	case known && older(version, 6, 2):
		return nil, fmt.Errorf("redis %s is too old: LPOP with a count needs 6.2", version)
	case facts["role"] == "replica" && !cluster:
		return nil, fmt.Errorf("%w: it is a replica, set the URL of the primary", ErrUnavailable)
	case facts["loading"] == "1":
		return nil, fmt.Errorf("%w: it still loads its file", ErrUnavailable)
	case !told:
		warnings = append(warnings, "the server does not tell its settings (a stand-in, or its ACL forbids INFO): they were not checked")
	case policy != "noeviction":
		warnings = append(warnings, fmt.Sprintf("maxmemory-policy is %s: a full Redis deletes jobs, results or leases; set noeviction", policy))
	}
	if facts["aof_enabled"] == "0" {
		warnings = append(warnings, "appendonly is off: a crash of Redis loses every job since its last snapshot; set appendonly yes")
	}
	if status, ok := facts["aof_last_write_status"]; ok && status != "ok" {
		warnings = append(warnings, "it cannot write its append-only file, and accepts no jobs meanwhile: look at its disk")
	}
	return warnings, nil
}

func older(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(parts[1])
	return errA == nil && errB == nil && (a < major || a == major && b < minor)
}
