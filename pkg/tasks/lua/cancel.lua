-- Cancels a job wherever it is.
-- KEYS 1 j:<id>, 2 act, 3 sched, 4 stat, 5 gone, 6 ctl:<the runner that the caller saw>, 7 recent of c, 8 u:<its unique key>,
--      if the caller knows it
-- ARGV 1 id, 2 that runner ("" none), 3 ttl of the tombstone (ms)
-- returns 0 there is nothing to cancel, 1 cancelled, 2 its runner was told, 3 another runner has it: look again,
--      4 it has a unique key: look which
local h = redis.call('GETRANGE', KEYS[1], 0, HEADER - 1)
if h == '' or is_terminal(h) then return 0 end
if holds_unique(h) and not KEYS[8] then return 4 end
local v = redis.call('HGET', KEYS[2], ARGV[1])
if v then
  local runner, seq = string.match(v, '^([^|]+)|(%d+)|')
  if runner ~= ARGV[2] then return 3 end
  -- The lease's own list of messages; it dies with the claim, long after any runner has read it. DEL of nothing comes first:
  -- a full Redis admits it, and then what follows.
  redis.call('ZREM', KEYS[3], priority_of(h) .. ARGV[1])
  if string.sub(v, -2) ~= '|X' then redis.call('HSET', KEYS[2], ARGV[1], v .. '|X') end
  redis.call('RPUSH', KEYS[6], seq .. '|' .. ARGV[1])
  redis.call('PEXPIRE', KEYS[6], 60000)
  return 2
end
local scheduled = redis.call('ZREM', KEYS[3], priority_of(h) .. ARGV[1])
local now = clock()
local left = tombstone(KEYS[1], h, 'c', now)
-- A pending id still lies in its list, for LREM would walk through all of it: the tombstone stays until a claim has dropped it, and
-- gone says that it waits for nobody.
if scheduled == 1 then
  redis.call('SET', KEYS[1], left, 'PX', ARGV[3])
else
  redis.call('SET', KEYS[1], left)
  redis.call('SADD', KEYS[5], ARGV[1])
end
if KEYS[8] then release(KEYS[8], ARGV[1]) end
redis.call('HINCRBY', KEYS[4], 'cancelled', 1)
remember(KEYS[7], { remembered(now, ARGV[1], name_of(left)) })
return 1
