package app

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"supervisor/internal/lazyredis"
)

// redisStore is the store of an application without a database.
//
//	app:upload:{<id>}     STRING  the image, until its job has ended
//	app:result:{<id>}     STRING  what came of it
//	app:{uploads}:bytes   HASH    the account of the uploads that wait: bytes by id, and their sum as "total"
//	app:{uploads}:until   ZSET    their ids by the time (ms) at which Redis deletes them
//
// The tags put what a script touches on one node of a cluster. The account is written before its upload and settled after that is
// gone; one who is killed in between leaves too much in it, for uploadTTL at most.
type redisStore struct {
	connection
	limit int64 // bytes of all uploads that wait
}

// openRedisStore does not wait for a server that is away: calls fail until it is back. An error is about the URL.
func openRedisStore(url string, limit int64) (*redisStore, error) {
	options, err := redisOptions(url)
	if err != nil {
		return nil, err
	}
	return &redisStore{connection: connection{lazyredis.New(options)}, limit: limit}, nil
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

func (s *redisStore) script(ctx context.Context, script *rueidis.Lua, keys []string, args ...string) (answer int64, err error) {
	err = s.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		answer, err = script.Exec(ctx, redis, keys, args).AsInt64()
		return err
	})
	return answer, err
}

// saveUpload asks for room, then sends the image: nobody sends 10 MiB to be refused. It copies image: the library may still send it
// when the request is over.
func (s *redisStore) saveUpload(ctx context.Context, id string, image []byte) error {
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

func (s *redisStore) upload(ctx context.Context, id string) ([]byte, error) {
	return s.get(ctx, uploadKey(id))
}

func (s *redisStore) dropUpload(ctx context.Context, id string) {
	ctx = context.WithoutCancel(ctx)
	err := s.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Unlink().Key(uploadKey(id)).Build()).Error()
	})
	if err == nil {
		s.script(ctx, settle, accountKeys, id)
	}
}

// saveResult writes a result as one line that says what it is, then the bytes: one key, so that it is there as a whole or not at all.
func (s *redisStore) saveResult(ctx context.Context, id string, made *product) error {
	value := fmt.Sprintf("%s %d %d\n%s", made.contentType, made.width, made.height, made.body)
	if _, err := s.script(ctx, replace, []string{uploadKey(id), resultKey(id)}, value, milliseconds(resultTTL)); err != nil {
		return err
	}
	_, err := s.script(ctx, settle, accountKeys, id)
	return err
}

func (s *redisStore) result(ctx context.Context, id string) (*product, error) {
	value, err := s.get(ctx, resultKey(id))
	if err != nil {
		return nil, err
	}
	head, body, _ := strings.Cut(rueidis.BinaryString(value), "\n")
	made := &product{body: value[len(value)-len(body):]}
	if _, err := fmt.Sscanf(head, "%s %d %d", &made.contentType, &made.width, &made.height); err != nil {
		return nil, fmt.Errorf("store: %s holds no result: %w", resultKey(id), err)
	}
	return made, nil
}

func (s *redisStore) ping(ctx context.Context) error {
	return s.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Exists().Key(accountKeys[0]).Build()).Error() // PING may go to any node of a cluster, also to a dead one
	})
}

func (s *redisStore) set(ctx context.Context, key, value string, ttl time.Duration) error {
	return s.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		return redis.Do(ctx, redis.B().Set().Key(key).Value(value).Px(ttl).Build()).Error()
	})
}

func (s *redisStore) get(ctx context.Context, key string) (value []byte, err error) {
	err = s.try(ctx, func(ctx context.Context, redis rueidis.Client) error {
		value, err = redis.Do(ctx, redis.B().Get().Key(key).Build()).AsBytes()
		return err
	})
	return value, err
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
