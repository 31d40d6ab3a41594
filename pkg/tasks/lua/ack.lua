-- Ends claims. Only who still owns a claim may: the owner value names the runner and the claim.
-- KEYS 1-4 p0..p3, 5 act, 6 sched, 7 bell, 8 dead, 9 stat, 10 paused, 11 out, 12-14 recent of d, c, e, 15.. j:<id>, one
--      per job, then the unique keys of some of them
-- ARGV 1 jobs, then in their order, for so many of them as end alike: op, owner ("runner|seq|"), ttl of what a cancelled job
--      leaves (ms), ttl or delay of the op (ms), how many; for each of them the id, and by op
--      d done:      record                 the ttl is the record's
--      f done:      record, id of the job that follows, what T:out keeps of it
--      r retry:     header, error          the delay is its wait
--      a again:     header, error          the same, postponed: the attempt does not count
--      x dead:      header, error          the ttl is the record's
--      q requeue:   -                      to the front, it never began
--      b back:      -                      to the front, it had begun; the attempt does not count
--      c cancelled: -                      while its handler ran
--      e expired:   -                      before it began
--      n dropped:   -                      was cancelled while it waited, or its record is gone
--      and last for each unique key the number of its job: it is given back if the job ends, and taken again if it never began: its
--      runner may have given it back just before. If another job has it, this one counts as begun
-- returns per job 1 as asked, 2 ended as cancelled instead, 0 not the owner: nothing changed
-- It begins with HDEL, which a full Redis admits, so all of it passes. It is written for many jobs that are done: what it does for each
-- of them costs more than Redis' own work.
local more = { d = 1, f = 3, r = 2, a = 2, x = 2, q = 0, b = 0, c = 0, e = 0, n = 0 }
local n, at = tonumber(ARGV[1]), 2
local ids, ops, starts, args = {}, {}, {}, {} -- by job; starts: where its kind starts in ARGV, args: what follows its id
while #ids < n do
  local op, start = ARGV[at], at
  local size = more[op] + 1
  at = at + 5
  for _ = 1, tonumber(ARGV[start + 4]) do
    local i = #ids + 1
    ids[i], ops[i], starts[i], args[i] = ARGV[at], op, start, at + 1
    at = at + size
  end
end
local values = redis.call('HMGET', KEYS[5], unpack(ids))
local mine, answer = {}, {}
local last, owner, owned -- most have the value of the one before: one claim took them
for i = 1, n do
  local v, o = values[i], ARGV[starts[i] + 1]
  if v ~= last or o ~= owner then
    last, owner = v, o
    owned = v and string.sub(v, 1, #o) == o
  end
  if owned then
    mine[#mine + 1] = ids[i]
    answer[i] = 1
  else
    answer[i] = 0
  end
end
if #mine == 0 then return answer end
redis.call('HDEL', KEYS[5], unpack(mine))

local now, wake = clock(), false
local stamp = remembrance(now)
local recent = { d = {}, c = {}, e = {} }
-- Of a large batch a few: people cannot read so fast, and Redis need not write so fast.
local most = n > 16 and 8 or 16
local function note(state, id, record)
  local list = recent[state]
  if #list < most then list[#list + 1] = stamp .. id .. '|' .. name_of(record) end
end
local count, waits = {}, {}
local function add(what) count[what] = (count[what] or 0) + 1 end
for i = 1, n do
  if answer[i] == 1 then
    local op, id, key, a = ops[i], ids[i], KEYS[14 + i], args[i]
    local ttl, after = ARGV[starts[i] + 2], ARGV[starts[i] + 3]
    local ran = op ~= 'q' and op ~= 'e' -- what goes back without a word may never have begun
    if op ~= 'd' and op ~= 'f' and op ~= 'n' and op ~= 'c' and string.sub(values[i], -2) == '|X' then
      op = 'c'
      ops[i] = op
      answer[i] = 2
    end
    if op == 'd' or op == 'f' then
      redis.call('SET', key, ARGV[a], 'PX', after)
      if op == 'f' then redis.call('HSET', KEYS[11], ARGV[a + 1], ARGV[a + 2]) end
      add('done')
      note('d', id, ARGV[a])
    elseif op == 'n' then
      if redis.call('PEXPIRE', key, ttl) == 0 then add('lost') end
    else
      local h = redis.call('GETRANGE', key, 0, HEADER - 1)
      local priority, claimed = string.match(values[i], '^(%d)|(%d+)', #ARGV[starts[i] + 1] + 1)
      if h == '' then
        add('lost')
      elseif (op == 'q' or op == 'b') and state_of(h) == 'c' then
        -- It was cancelled while it waited, and given back unread.
        redis.call('PEXPIRE', key, ttl)
      elseif op == 'c' then
        if ran then h = begun(h, claimed) end
        local left = tombstone(key, h, 'c', now)
        redis.call('SET', key, left, 'PX', ttl)
        add('cancelled')
        note('c', id, left)
      elseif op == 'e' then
        local left = tombstone(key, h, 'e', now)
        redis.call('SET', key, left, 'PX', ttl)
        add('expired')
        note('e', id, left)
      elseif op == 'q' or op == 'b' then
        if op == 'b' then redis.call('SETRANGE', key, STARTED, started_at(claimed)) end
        redis.call('LPUSH', KEYS[tonumber(priority) + 1], id)
        waits[i] = op == 'q' and not has_begun(h) and claimed
        wake = true
      else
        redis.call('SETRANGE', key, 0, ARGV[a])
        redis.call('SETRANGE', key, error_at(ARGV[a]), ARGV[a + 1])
        if op == 'r' or op == 'a' then
          local due = now + tonumber(after)
          redis.call('ZADD', KEYS[6], whole(due), priority .. id)
          add(op == 'r' and 'retried' or 'postponed')
          if tonumber(redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')[2]) >= due then wake = true end
        else
          redis.call('PEXPIRE', key, after)
          redis.call('ZREMRANGEBYSCORE', KEYS[8], '-inf', whole(now - tonumber(after)))
          redis.call('ZADD', KEYS[8], whole(now), id)
          redis.call('PEXPIRE', KEYS[8], after)
          add('dead')
        end
      end
    end
  end
end
for k = 15 + n, #KEYS do
  local i = tonumber(ARGV[at + k - 15 - n])
  local op = ops[i]
  if waits[i] then
    if not redis.call('SET', KEYS[k], ids[i], 'NX') and redis.call('GET', KEYS[k]) ~= ids[i] then
      redis.call('SETRANGE', KEYS[14 + i], STARTED, started_at(waits[i]))
    end
  elseif answer[i] > 0 and op ~= 'r' and op ~= 'a' and op ~= 'q' and op ~= 'b' then
    release(KEYS[k], ids[i])
  end
end
for what, times in pairs(count) do redis.call('HINCRBY', KEYS[9], what, times) end
if #recent.d > 0 then remember(KEYS[12], recent.d) end
if #recent.c > 0 then remember(KEYS[13], recent.c) end
if #recent.e > 0 then remember(KEYS[14], recent.e) end
if wake then ring(KEYS[7], KEYS[10]) end
return answer
