package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"supervisor/internal/lazyredis"
)

// RedisResults keeps results in another Redis than the jobs', so that large ones do not fill the one that must never be full: a STRING
// {namespace}:result:{id} with the time of Keep.
type RedisResults struct {
	conn    link
	timeout time.Duration
}

// NewRedisResults prepares a connection; it does not wait for the server.
func NewRedisResults(address string, timeout time.Duration) (*RedisResults, error) {
	settings, err := lazyredis.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("redis url: %w", err)
	}
	if timeout == 0 {
		timeout = Options{}.withDefaults().CallTimeout
	}
	settings.Dialer.Timeout, settings.Sentinel.Dialer.Timeout = timeout, timeout
	settings.PipelineMultiplex = 1
	settings.ClientName = "tasks-results"
	return &RedisResults{link{lazyredis.New(settings)}, timeout}, nil
}

// Close ends the connection.
func (s *RedisResults) Close() { s.conn.Close() }

func resultKey(namespace, id string) string { return namespace + ":result:" + id }

// Save stores the results of those that are done and have one. Of all others the jobs' own records tell enough.
func (s *RedisResults) Save(ctx context.Context, namespace string, ends []Ended) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	conn, err := s.conn.get(ctx)
	if err != nil {
		return err
	}
	var commands []rueidis.Completed
	for _, e := range ends {
		if len(e.Result) == 0 {
			continue
		}
		head, err := json.Marshal(e.Status)
		if err != nil {
			return fmt.Errorf("result of %s: %w", e.Status.ID, err)
		}
		value := append(append(head, '\n'), e.Result...)
		commands = append(commands, conn.B().Set().Key(resultKey(namespace, e.Status.ID)).Value(rueidis.BinaryString(value)).Px(max(e.Keep, time.Second)).Build())
	}
	if len(commands) == 0 {
		return nil
	}
	for _, answer := range conn.DoMulti(ctx, commands...) {
		if err := answer.Error(); err != nil {
			return fmt.Errorf("store results: %w", redisError(ctx, err))
		}
	}
	return nil
}

// Load reads one.
func (s *RedisResults) Load(ctx context.Context, namespace, id string) (e Ended, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	conn, err := s.conn.get(ctx)
	if err != nil {
		return e, err
	}
	value, err := conn.Do(ctx, conn.B().Get().Key(resultKey(namespace, id)).Build()).AsBytes()
	if rueidis.IsRedisNil(err) {
		return e, fmt.Errorf("result of %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return e, redisError(ctx, err)
	}
	head, result, _ := bytes.Cut(value, []byte("\n"))
	if err := json.Unmarshal(head, &e.Status); err != nil {
		return e, fmt.Errorf("result of %s: %w", id, err)
	}
	e.Result = result
	return e, nil
}
