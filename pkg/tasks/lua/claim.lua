-- Takes up to n jobs for a runner whose lease lives.
-- KEYS 1-4 p0..p3, 5 act, 6 sched, 7 bell, 8 timer, 9 gone, 10 hb:<runner>, 11 cut:<runner>, 12 wk
-- ARGV 1 runner, 2 seq (never used before by this runner), 3 n, its free slots (1..256), 4 lease ms
-- returns {1, now, sleep, id, id, …}: Redis' clock in ms; sleep is how many ms from now this runner must look again for a
--      scheduled job, -1 if that is not its task. {0} if the lease is lost: nothing was changed.
-- Its first write (ZREM or LPOP) is one that a full Redis admits, so all of it passes.
if redis.call('EXISTS', KEYS[10]) == 0 and not renewed(KEYS[10], KEYS[11], KEYS[12], ARGV[1], ARGV[4]) then return { 0 } end
local runner, n, now = ARGV[1], tonumber(ARGV[3]), clock()

-- Due jobs go to the end of their priority's list. 100 at a time bounds how long Redis does nothing else.
local due = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', whole(now), 'LIMIT', 0, 100)
if #due > 0 then
  redis.call('ZREM', KEYS[6], unpack(due))
  local lists = { {}, {}, {}, {} }
  for _, member in ipairs(due) do
    local list = lists[tonumber(string.sub(member, 1, 1)) + 1]
    list[#list + 1] = string.sub(member, 2)
  end
  for p = 1, 4 do
    if #lists[p] > 0 then redis.call('RPUSH', KEYS[p], unpack(lists[p])) end
  end
end

local answer, owners = { 1, whole(now), -1 }, {}
for p = 1, 4 do
  if n == 0 then break end
  local ids = redis.call('LPOP', KEYS[p], n)
  if ids and #ids > 0 then
    local owner = runner .. '|' .. ARGV[2] .. '|' .. (p - 1) .. '|' .. whole(now)
    for _, id in ipairs(ids) do
      answer[#answer + 1] = id
      owners[#owners + 1] = id
      owners[#owners + 1] = owner
    end
    n = n - #ids
  end
end
if #owners > 0 then
  redis.call('HSET', KEYS[5], unpack(owners))
  -- What was cancelled is dropped by its runner, but does not lie in a list any more.
  if redis.call('SCARD', KEYS[9]) > 0 then redis.call('SREM', KEYS[9], unpack(answer, 4)) end
end

-- Something left that may be claimed: wake another runner. With slots left the lists are empty.
local wake = false
if n == 0 then
  for p = 1, 4 do
    if redis.call('LLEN', KEYS[p]) > 0 then
      wake = true
      break
    end
  end
end

-- The timer: one runner with a free slot watches the next due time; the others sleep on the bell.
local head = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
if head[2] then
  local at = tonumber(head[2])
  local held = redis.call('GET', KEYS[8])
  local held_at, holder
  if held then held_at, holder = string.match(held, '^(%d+)|(.*)$') end
  if n > 0 then
    -- The holder is me, or sleeps too long, or its time is over: it found nothing more to watch, or died. One that wakes before
    -- the head's time will look again by itself.
    if not held_at or holder == runner or tonumber(held_at) > at or tonumber(held_at) < now then
      local left = math.max(at - now, 0)
      redis.call('SET', KEYS[8], whole(at) .. '|' .. runner, 'PX', whole(math.min(left, 1000) + 250))
      answer[3] = whole(left)
    end
  else
    -- My slots are taken: another one must watch, if any sleeps.
    if holder == runner then
      redis.call('DEL', KEYS[8])
      wake = true
    end
    if at <= now then wake = true end
  end
end
if wake then ring(KEYS[7]) end
return answer
