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
	"supervisor/pkg/tasks"
)

// redisStore is the store of an application without a database.
//
//	app:upload:{<id>}     STRING  the image, until its job has ended, and for a while if it is dead
//	app:result:{<id>}     STRING  what came of it
//	app:{uploads}:bytes   HASH    the account of the uploads: bytes by id, their sum as "total", that of the dead jobs' as "failed"
//	app:{uploads}:until   ZSET    their ids by the time (ms) at which Redis deletes them
//	app:{uploads}:failed  ZSET    ids of dead jobs by the time (ms) of their end: they give way to uploads that come
//
// The tags put what a script touches on one node of a cluster. The account is written before its upload and settled after that is
// gone; one who is killed in between leaves too much in it, for uploadTTL at most.
type redisStore struct {
	connection
	limit int64 // bytes of all uploads
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

var accountKeys = []string{"app:{uploads}:bytes", "app:{uploads}:until", "app:{uploads}:failed"}

// accountPart is put before the scripts that change the account, whose keys are all of them. settled is admitted by a full Redis: its first
// write frees something, and then what follows passes too.
const accountPart = `
local bytes, till, failed = KEYS[1], KEYS[2], KEYS[3]
local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local function waits(id, size)
  if redis.call('ZREM', failed, id) == 1 and size then redis.call('HINCRBY', bytes, 'failed', -size) end
end
local function settled(id)
  local size = redis.call('HGET', bytes, id)
  redis.call('HDEL', bytes, id)
  redis.call('ZREM', till, id)
  waits(id, size)
  if redis.call('EXISTS', till) == 0 then
    redis.call('DEL', bytes)
  elseif size then
    redis.call('HINCRBY', bytes, 'total', -size)
  end
end
`

// reserve enters an upload into the account, if there is room.
//
//	ARGV id, bytes, limit, uploadTTL in ms
//	returns {'1'}; {'0'} there is no room; {'2', id, …} there will be when these are gone, of dead jobs which none revives from now on: ask again
//
// What Redis has deleted is settled first, some of it each time: this must not take long.
var reserve = rueidis.NewLuaScript(accountPart + `
local now = clock()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', till, '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)) do settled(id) end
if redis.call('HEXISTS', bytes, ARGV[1]) == 1 then return { '1' } end
local over = tonumber(redis.call('HGET', bytes, 'total') or 0) + tonumber(ARGV[2]) - tonumber(ARGV[3])
if over > 0 then
  if over > tonumber(redis.call('HGET', bytes, 'failed') or 0) then return { '0' } end
  local answer = { '2' }
  for _, id in ipairs(redis.call('ZRANGE', failed, 0, 99)) do
    local size = redis.call('HGET', bytes, id) or 0
    waits(id, size)
    answer[#answer + 1] = id
    over = over - size
    if over <= 0 then break end
  end
  return answer
end
redis.call('HSET', bytes, ARGV[1], ARGV[2])
redis.call('HINCRBY', bytes, 'total', ARGV[2])
redis.call('ZADD', till, string.format('%.0f', now + tonumber(ARGV[4])), ARGV[1])
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[4]) end
return { '1' }`)

// settle takes an upload out of the account.
//
//	ARGV id   returns 1
var settle = rueidis.NewLuaScript(accountPart + `
settled(ARGV[1])
return 1`)

// fail enters that an upload's job is dead; revive that it waits again.
//
//	ARGV id, uploadTTL in ms   returns 1, or 0: there is nothing to be changed
var fail = rueidis.NewLuaScript(accountPart + `
local size = redis.call('HGET', bytes, ARGV[1])
if not size or redis.call('ZADD', failed, 'NX', string.format('%.0f', clock()), ARGV[1]) == 0 then return 0 end
redis.call('HINCRBY', bytes, 'failed', size)
return redis.call('PEXPIRE', failed, ARGV[2])`)

var revive = rueidis.NewLuaScript(accountPart + `
local size = redis.call('HGET', bytes, ARGV[1])
if not size then return 0 end
waits(ARGV[1], size)
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
	if err := s.reserve(ctx, id, len(image)); err != nil {
		return err
	}
	err := s.set(ctx, uploadKey(id), string(image), uploadTTL)
	if err != nil {
		s.dropUpload(ctx, id)
	}
	return err
}

// reserve asks for room, and makes some. Each round takes some of the dead jobs' uploads, or is the last.
func (s *redisStore) reserve(ctx context.Context, id string, size int) error {
	for {
		var answer []string
		err := s.try(ctx, func(ctx context.Context, redis rueidis.Client) (err error) {
			answer, err = reserve.Exec(ctx, redis, accountKeys, []string{id, strconv.Itoa(size), strconv.FormatInt(s.limit, 10), milliseconds(uploadTTL)}).AsStrSlice()
			return err
		})
		switch {
		case err != nil:
			return err
		case answer[0] == "1":
			return nil
		case len(answer) < 2:
			return errUploadsFull
		}
		for _, dead := range answer[1:] {
			s.dropUpload(ctx, dead)
		}
	}
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

func (s *redisStore) failUpload(ctx context.Context, id string) {
	_, err := s.script(context.WithoutCancel(ctx), fail, accountKeys, id, milliseconds(uploadTTL))
	if errors.Is(err, tasks.ErrFull) { // then it shall not lie about
		s.dropUpload(ctx, id)
	}
}

func (s *redisStore) reviveUpload(ctx context.Context, id string) error {
	_, err := s.script(ctx, revive, accountKeys, id)
	return err
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
