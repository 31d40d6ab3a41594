package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// Filter says which jobs of a queue to tell of.
type Filter struct {
	Queue string
	// State: Pending in the order in which they will be claimed; Scheduled, also those that are retrying, by their time; Running, also those
	// that are cancelling; Dead, the last first; of Done, Cancelled and Expired the last 1,000 of each, the last first.
	State  State
	Cursor string // Page.Next of the page before; "": the first
	Limit  int    // 50; at most 1,000
}

// Page is some jobs. What moves while somebody turns pages may be seen twice, or not at all.
type Page struct {
	Jobs []Status // of what ended so long ago that its record is gone: ID, Queue, Name, State and Finished
	Next string   // "": this is the last
}

// Listed are the states that Jobs can tell of.
var Listed = []State{Pending, Running, Scheduled, Dead, Done, Cancelled, Expired}

const (
	defaultPage = 50
	largestPage = 1000
)

// finals are the states whose jobs lie in T:recent, and what records call them.
var finals = map[State]byte{Done: stateDone, Cancelled: stateCancelled, Expired: stateExpired}

// ErrBadCursor says that a string is no cursor of this list.
var ErrBadCursor = errors.New("not a cursor")

// spot is where a page begins: in a shard, there in a list (pending has four), there at a position (of a hash: its scan's cursor).
type spot struct {
	shard, list int
	at          uint64
}

func (s spot) String() string { return fmt.Sprintf("%d.%d.%d", s.shard, s.list, s.at) }

func parseSpot(cursor string) (s spot, err error) {
	if cursor == "" {
		return s, nil
	}
	parts := strings.Split(cursor, ".")
	if len(parts) == 3 {
		var errs [3]error
		s.shard, errs[0] = strconv.Atoi(parts[0])
		s.list, errs[1] = strconv.Atoi(parts[1])
		s.at, errs[2] = strconv.ParseUint(parts[2], 10, 63)
		if errors.Join(errs[:]...) == nil && s.shard >= 0 && s.list >= 0 {
			return s, nil
		}
	}
	return s, fmt.Errorf("cursor %.100q: %w", cursor, ErrBadCursor)
}

// Jobs gives a page of a queue's jobs. It costs what the page costs, however many there are.
func (i *Inspector) Jobs(ctx context.Context, f Filter) (Page, error) {
	if f.Limit == 0 {
		f.Limit = defaultPage
	}
	if !slices.Contains(Listed, f.State) || f.Limit < 1 || f.Limit > largestPage {
		return Page{}, fmt.Errorf("state %.50q, limit %d: one of %v, 1 to %d: %w", f.State, f.Limit, Listed, largestPage, ErrInvalid)
	}
	first, err := parseSpot(f.Cursor)
	if err != nil {
		return Page{}, err
	}
	if err := i.exists(ctx, f.Queue); err != nil {
		return Page{}, err
	}
	var page Page
	err = i.do(ctx, func(ctx context.Context, conn rueidis.Client) error {
		lanes, at := i.lanes(f.Queue), first
		var found []entryOf
		for at.shard < len(lanes) && len(found) < f.Limit {
			some, err := lanes[at.shard].list(ctx, conn, f.State, &at, f.Limit-len(found))
			if err != nil {
				return err
			}
			found = append(found, some...)
		}
		page = Page{}
		if at.shard < len(lanes) {
			page.Next = at.String()
		}
		page.Jobs, err = describeAll(ctx, conn, f.State, found)
		return err
	})
	return page, err
}

// entryOf is what a list says of a job.
type entryOf struct {
	lane lane
	id   string
	last Status // of recent: what is known without the record
}

// list reads up to n entries from at on, and moves it to where the next begins: with nothing left, the next shard.
func (l lane) list(ctx context.Context, conn rueidis.Client, state State, at *spot, n int) (found []entryOf, err error) {
	b := conn.B()
	from, to := int64(at.at), int64(at.at)+int64(n)-1
	var members []string
	lists := 1
	switch state {
	case Pending:
		lists = priorities
		members, err = conn.Do(ctx, b.Lrange().Key(l.pending(min(at.list, priorities-1))).Start(from).Stop(to).Build()).AsStrSlice()
	case Scheduled:
		members, err = conn.Do(ctx, b.Zrange().Key(l.sched()).Min(strconv.FormatInt(from, 10)).Max(strconv.FormatInt(to, 10)).Build()).AsStrSlice()
		for k, m := range members {
			members[k] = m[min(1, len(m)):] // the priority comes first
		}
	case Dead:
		members, err = conn.Do(ctx, b.Zrange().Key(l.dead()).Min(strconv.FormatInt(from, 10)).Max(strconv.FormatInt(to, 10)).Rev().Build()).AsStrSlice()
	case Running:
		scan, failed := conn.Do(ctx, b.Hscan().Key(l.act()).Cursor(at.at).Count(int64(n)).Build()).AsScanEntry()
		for k := 0; k+1 < len(scan.Elements); k += 2 {
			found = append(found, entryOf{lane: l, id: scan.Elements[k]})
		}
		if at.at = scan.Cursor; at.at == 0 {
			*at = spot{shard: at.shard + 1}
		}
		return found, failed
	default:
		members, err = conn.Do(ctx, b.Lrange().Key(l.recent(finals[state])).Start(from).Stop(to).Build()).AsStrSlice()
	}
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		e := entryOf{lane: l, id: m}
		if finals[state] != 0 {
			e.last = decodeRecent(l, state, m)
			e.id = e.last.ID
		}
		found = append(found, e)
	}
	if at.at += uint64(len(members)); len(members) < n {
		*at = spot{shard: at.shard, list: at.list + 1}
		if at.list >= lists {
			*at = spot{shard: at.shard + 1}
		}
	}
	return found, nil
}

// decodeRecent reads what recent.lua wrote: 13 digits of unix ms, the id, a bar, the name.
func decodeRecent(l lane, state State, entry string) Status {
	s := Status{Queue: l.queue, State: state, ID: entry}
	if len(entry) > 13 {
		finished, _ := strconv.ParseInt(entry[:13], 10, 64)
		s.Finished = moment(finished)
		s.ID, s.Name, _ = strings.Cut(entry[13:], "|")
	}
	return s
}

// describeAll reads the jobs' states in one round trip, and leaves out those that are not in that list any more.
func describeAll(ctx context.Context, conn rueidis.Client, state State, found []entryOf) ([]Status, error) {
	calls := make([]scriptCall, len(found))
	for n, e := range found {
		calls[n] = e.lane.status(e.id)
	}
	jobs := make([]Status, 0, len(found))
	seen := make(map[string]bool, len(found))
	for n, answer := range run(ctx, conn, calls...) {
		facts, err := answer.AsStrSlice()
		if err != nil {
			return nil, err
		}
		s, err := readStatus(found[n].lane, found[n].id, facts)
		last := found[n].last
		switch {
		case err != nil && !errors.Is(err, ErrNotFound):
			return nil, err
		case err == nil && (s.State == state || state == Scheduled && s.State == Retrying || state == Running && s.State == Cancelling):
		case last.ID != "":
			s = last
		default:
			continue
		}
		if !seen[s.ID] {
			seen[s.ID] = true
			jobs = append(jobs, s)
		}
	}
	return jobs, nil
}
