package tasks

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// RunnerInfo is what Redis knows of a runner.
type RunnerInfo struct {
	Name        string
	Host        string // "" if it has not told yet
	PID         int    // in its own pid namespace
	Since       time.Time
	Concurrency int
	Queues      []string
	Claims      int           // jobs that are its own now
	Lease       time.Duration // what is left of it; 0: it has ended, and the others are about to take its jobs
}

// facts is what a runner tells of itself, in the value of its lease: it lives as long as the runner.
func (r *Runner) facts() string {
	host, _ := os.Hostname()
	return strings.Join([]string{
		strconv.Itoa(os.Getpid()), strconv.FormatInt(r.since.UnixMilli(), 10), strconv.Itoa(r.options.Concurrency), host,
	}, "|")
}

func (i *RunnerInfo) read(facts string) {
	parts := strings.SplitN(facts, "|", 4)
	if len(parts) < 4 {
		return // a claim or a renewal made the lease again; the runner tells with the next
	}
	i.PID, _ = strconv.Atoi(parts[0])
	since, _ := strconv.ParseInt(parts[1], 10, 64)
	i.Since = moment(since)
	i.Concurrency, _ = strconv.Atoi(parts[2])
	i.Host = parts[3]
}

// Runners tells of all that live or still own something, in order of their names. It reads every claim.
func (i *Inspector) Runners(ctx context.Context) ([]RunnerInfo, error) {
	queues, err := i.Names(ctx)
	if err != nil {
		return nil, err
	}
	var found map[string]*RunnerInfo
	err = i.do(ctx, func(ctx context.Context, conn rueidis.Client) error {
		found = make(map[string]*RunnerInfo)
		var names, facts reads
		for _, queue := range queues {
			for _, l := range i.lanes(queue) {
				names.add(conn.B().Zrange().Key(l.wk()).Min("0").Max("-1").Build(), func(answer rueidis.RedisResult) error {
					here, err := answer.AsStrSlice()
					for _, name := range here {
						info := found[name]
						if info == nil {
							info = &RunnerInfo{Name: name}
							found[name] = info
						}
						if !slices.Contains(info.Queues, queue) {
							info.Queues = append(info.Queues, queue)
						}
						facts.add(conn.B().Get().Key(l.lease(name)).Build(), func(answer rueidis.RedisResult) error {
							told, err := answer.ToString()
							if rueidis.IsRedisNil(err) {
								return nil
							}
							info.read(told)
							return err
						})
						facts.add(conn.B().Pttl().Key(l.lease(name)).Build(), func(answer rueidis.RedisResult) error {
							left, err := answer.AsInt64()
							info.Lease = max(info.Lease, time.Duration(left)*time.Millisecond)
							return err
						})
					}
					return err
				})
				facts.add(conn.B().Hvals().Key(l.act()).Build(), func(answer rueidis.RedisResult) error {
					claims, err := answer.AsStrSlice()
					for _, claim := range claims {
						name, _, _ := strings.Cut(claim, "|")
						if info := found[name]; info != nil {
							info.Claims++
						}
					}
					return err
				})
			}
		}
		if err := names.run(ctx, conn); err != nil {
			return err
		}
		return facts.run(ctx, conn)
	})
	infos := make([]RunnerInfo, 0, len(found))
	for _, info := range found {
		infos = append(infos, *info)
	}
	slices.SortFunc(infos, func(a, b RunnerInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos, err
}
