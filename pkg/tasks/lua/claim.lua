-- Takes up to n jobs for a runner whose lease lives.
-- KEYS 1-4 p0..p3, 5 act, 6 sched, 7 bell, 8 timer, 9 gone, 10 hb:<runner>, 11 cut:<runner>, 12 wk, 13 paused, 14 lim,
--      15 rate
-- ARGV 1 runner, 2 seq (never used before by this runner), 3 n, its free slots (1..256), 4 lease ms, 5 the priorities in the order
--      in which they are asked, as in 0123
-- returns {1, now, sleep, bound, id, id, …}: Redis' clock in ms; sleep is how many ms from now this runner must look again for a
--      scheduled job, -1 if that is not its task. {0} if the lease is lost: nothing was changed. bound is 1 if the queue's
--      limit of concurrency left less than n: who ends a job should ask again. Of a paused queue nothing is taken, and nothing
--      that is due becomes pending.
-- Its first write (ZREM, LPOP or LTRIM) is one that a full Redis admits, so all of it passes.
local found = redis.call('MGET', KEYS[10], KEYS[13], KEYS[14])
if not found[1] and not renewed(KEYS[10], KEYS[11], KEYS[12], ARGV[1], ARGV[4]) then return { 0 } end
if found[2] then return { 1, whole(clock()), -1, 0 } end
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

-- A queue's limit: so many at once, so many a second (a bucket of tokens, full when its key is not there).
local free, bound, room, tokens, per, burst = n, 0, nil, nil, nil, nil
if found[3] then
  local most
  most, per, burst = string.match(found[3], '^(%d+)|([%d.]+)|(%d+)$')
  most, per, burst = tonumber(most), tonumber(per), tonumber(burst)
  if most > 0 then
    room = math.max(most - redis.call('HLEN', KEYS[5]), 0)
    if room < n then n, bound = room, 1 end
  end
  if per > 0 then
    tokens = burst
    local held = redis.call('GET', KEYS[15])
    if held then
      local left, at = string.match(held, '^([%d.]+)|(%d+)$')
      tokens = math.min(burst, tonumber(left) + math.max(now - tonumber(at), 0) * per / 1000)
    end
    n = math.min(n, math.floor(tokens + 0.000001))
  end
  if n == 0 then redis.call('LTRIM', KEYS[7], 0, 0) end -- which changes nothing: now a full Redis lets the timer be set, too
end

local answer, owners, allowed = { 1, whole(now), -1, bound }, {}, n
for i = 1, 4 do
  if n == 0 then break end
  local p = tonumber(string.sub(ARGV[5], i, i)) + 1
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
  if redis.call('SCARD', KEYS[9]) > 0 then redis.call('SREM', KEYS[9], unpack(answer, 5)) end
end

local limited = allowed < free -- by the queue, not by this runner's slots
free = free - (allowed - n)
if tokens and allowed > n then
  tokens = math.max(tokens - (allowed - n), 0)
  redis.call('SET', KEYS[15], string.format('%.6f', tokens) .. '|' .. whole(now), 'PX', whole((burst - tokens) * 1000 / per + 1000))
end

-- Something left that may be claimed: wake another runner. With slots left the lists are empty, or their limit is reached.
local wake, refill = false, nil
if n == 0 then
  for p = 1, 4 do
    if redis.call('LLEN', KEYS[p]) > 0 then
      if not limited then
        wake = true
      elseif tokens and tokens < 1 and not (room and room <= allowed) then
        refill = now + math.ceil((1 - tokens) * 1000 / per)
      end
      break
    end
  end
end

-- The timer: one runner with a free slot watches the next due time; the others sleep on the bell.
-- A token of the queue's limit is such a time, too.
local head = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
local at = head[2] and tonumber(head[2])
if refill and (not at or refill < at) then at = refill end
if at then
  local held = redis.call('GET', KEYS[8])
  local held_at, holder
  if held then held_at, holder = string.match(held, '^(%d+)|(.*)$') end
  if free > 0 then
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
if wake then ring(KEYS[7], KEYS[13]) end
return answer
