package app

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"supervisor/internal/lazyredis"
)

// How long the store keeps things. Nothing is written without one of these.
const (
	// uploadTTL must outlast the longest wait: a queue that stood still over a night, and all attempts. Whoever ends a job deletes
	// its upload; this is for what nobody ends, a job that killed all its runners for instance.
	uploadTTL = 24 * time.Hour
	resultTTL = time.Hour
	// recordTTL is how long a job is known after its end: longer than its result, so that there is somebody to say that it expired.
	recordTTL = 24 * time.Hour

	storeTimeout = 5 * time.Second // of one operation; 10 MiB at 16 Mbit/s
)

var (
	// errNotStored says that nothing lies under a key, or not any more.
	errNotStored = errors.New("not in the store")
	// errUploadsFull says that the uploads that wait already are as many bytes as may.
	errUploadsFull = errors.New("too many bytes of uploads wait")
)

// store keeps uploads and results where web workers and runners of all machines find them: in Redis, by the id of their job. Its
// methods are what another place for them would have to offer.
//
//	app:upload:{<id>}     STRING  the image, until its job has ended
//	app:result:{<id>}     STRING  what came of it
//	app:{uploads}:bytes   HASH    the account of the uploads that wait: bytes by id, and their sum as "total"
//	app:{uploads}:until   ZSET    their ids by the time (ms) at which Redis deletes them
//
// The tags put what a script touches on one node of a cluster. The account is written before its upload and settled after that is
// gone; one who is killed in between leaves too much in it, for uploadTTL at most.
type store struct {
	connection
	limit int64 // bytes of all uploads that wait
}

// openStore does not wait for a server that is away: calls fail until it is back. An error is about the URL.
func openStore(url string, limit int64) (*store, error) {
	options, err := redisOptions(url)
	if err != nil {
		return nil, err
	}
	return &store{connection: connection{lazyredis.New(options)}, limit: limit}, nil
}

func uploadKey(id string) string { return "app:upload:{" + id + "}" }
func resultKey(id string) string { return "app:result:{" + id + "}" }

var accountKeys = []string{"app:{uploads}:bytes", "app:{uploads}:until"}

// reserve enters an upload into the account, if there is room.
//
//	KEYS the account   ARGV id, bytes, limit, uploadTTL in ms   returns 1, or 0: there is no room
//
// What Redis has deleted is settled first, some of it each time: this must not take long.
var reserve = rueidis.NewLuaScript(`
local bytes, till = KEYS[1], KEYS[2]
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', till, '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)) do
  local size = redis.call('HGET', bytes, id)
  redis.call('ZREM', till, id)
  redis.call('HDEL', bytes, id)
  if size then redis.call('HINCRBY', bytes, 'total', -size) end
end
if redis.call('HEXISTS', bytes, ARGV[1]) == 1 then return 1 end
if tonumber(redis.call('HGET', bytes, 'total') or 0) + tonumber(ARGV[2]) > tonumber(ARGV[3]) then return 0 end
redis.call('HSET', bytes, ARGV[1], ARGV[2])
redis.call('HINCRBY', bytes, 'total', ARGV[2])
redis.call('ZADD', till, string.format('%.0f', now + tonumber(ARGV[4])), ARGV[1])
redis.call('PEXPIRE', bytes, ARGV[4])
redis.call('PEXPIRE', till, ARGV[4])
return 1`)

// settle takes an upload out of the account.
//
//	KEYS the account   ARGV id   returns 1
//
// A full Redis admits a script whose first write frees something; then it lets the rest pass too.
var settle = rueidis.NewLuaScript(`
local bytes, till = KEYS[1], KEYS[2]
local size = redis.call('HGET', bytes, ARGV[1])
redis.call('HDEL', bytes, ARGV[1])
redis.call('ZREM', till, ARGV[1])
if redis.call('EXISTS', till) == 0 then
  redis.call('DEL', bytes)
elseif size then
  redis.call('HINCRBY', bytes, 'total', -size)
end
return 1`)

// replace puts a result in the place of its upload.
//
//	KEYS upload, result   ARGV value, ttl in ms   returns 1
//
// DEL comes first, so that it passes where Redis is full: SET alone would be refused, and the uploads that fill it would never go.
var replace = rueidis.NewLuaScript(`
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1`)

func (s *store) script(ctx context.Context, script *rueidis.Lua, keys []string, args ...string) (answer int64, err error) {
	err = s.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		answer, err = script.Exec(ctx, redis, keys, args).AsInt64()
		return err
	})
	return answer, err
}

// saveUpload asks for room, then sends the image: nobody sends 10 MiB to be refused. It copies image: the library may still send it
// when the request is over.
func (s *store) saveUpload(ctx context.Context, id string, image []byte) error {
	room, err := s.script(ctx, reserve, accountKeys, id, strconv.Itoa(len(image)), strconv.FormatInt(s.limit, 10), milliseconds(uploadTTL))
	if err != nil {
		return err
	}
	if room == 0 {
		return errUploadsFull
	}
	err = s.set(ctx, uploadKey(id), string(image), uploadTTL)
	if err != nil {
		s.dropUpload(ctx, id)
	}
	return err
}

func (s *store) upload(ctx context.Context, id string) ([]byte, error) {
	return s.get(ctx, uploadKey(id))
}

// dropUpload deletes what nobody needs any more, also when ctx has ended. It may fail: the TTL does the same later.
func (s *store) dropUpload(ctx context.Context, id string) {
	ctx = context.WithoutCancel(ctx)
	err := s.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Unlink().Key(uploadKey(id)).Build()).Error()
	})
	if err == nil {
		s.script(ctx, settle, accountKeys, id)
	}
}

// saveResult stores a result and deletes its upload. A result is one line that says what it is, then the bytes: one key, so that it is
// there as a whole or not at all.
func (s *store) saveResult(ctx context.Context, id string, made *madeThumbnail) error {
	value := fmt.Sprintf("%s %d %d\n%s", made.contentType, made.width, made.height, made.body)
	if _, err := s.script(ctx, replace, []string{uploadKey(id), resultKey(id)}, value, milliseconds(resultTTL)); err != nil {
		return err
	}
	_, err := s.script(ctx, settle, accountKeys, id)
	return err
}

func (s *store) result(ctx context.Context, id string) (*madeThumbnail, error) {
	value, err := s.get(ctx, resultKey(id))
	if err != nil {
		return nil, err
	}
	head, body, _ := strings.Cut(rueidis.BinaryString(value), "\n")
	made := &madeThumbnail{body: value[len(value)-len(body):]}
	if _, err := fmt.Sscanf(head, "%s %d %d", &made.contentType, &made.width, &made.height); err != nil {
		return nil, fmt.Errorf("store: %s holds no result: %w", resultKey(id), err)
	}
	return made, nil
}

// ping reports whether the store answers.
func (s *store) ping(ctx context.Context) error {
	return s.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Ping().Build()).Error()
	})
}

func (s *store) set(ctx context.Context, key, value string, ttl time.Duration) error {
	return s.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Set().Key(key).Value(value).Px(ttl).Build()).Error()
	})
}

func (s *store) get(ctx context.Context, key string) (value []byte, err error) {
	err = s.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		value, err = redis.Do(ctx, redis.B().Get().Key(key).Build()).AsBytes()
		return err
	})
	return value, err
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// hours writes a whole number of them for people.
func hours(d time.Duration) string { return fmt.Sprintf("%gh", d.Hours()) }
