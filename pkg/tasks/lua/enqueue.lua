-- Stores jobs that are not there yet.
-- KEYS 1-4 p0..p3, 5 sched, 6 bell, 7 stat, 8 gone, 9 paused, 10.. j:<id>, one per job, then two for each job that
--      has a unique key: u:<unique key>, j:<its holder, as the caller knows it>
-- ARGV 1 how many ids may wait (0: no limit), 2 jobs, then four per job: id, priority, due, record
--      due: "" now, "@ms" by the clock, "+ms" from now
--      then three per unique key: number of its job, that holder ("" not known), ttl ms ("" until the job gives it back)
-- returns per job 1 stored, 0 was there already, -1 the queue is full, or the id of the job that holds its unique key
-- The first write is SET: on a full Redis it fails before anything was changed.
local limit = tonumber(ARGV[1])
local room
if limit > 0 then
  -- What was cancelled while it waited still lies in its list, but waits no more.
  room = limit - redis.call('ZCARD', KEYS[5]) + redis.call('SCARD', KEYS[8])
  for p = 1, 4 do room = room - redis.call('LLEN', KEYS[p]) end
end
if #KEYS == 10 and ARGV[5] == '' and not (room and room <= 0) then
  -- One job for now, the most frequent call, as below: what Lua does about many costs more than Redis' own work.
  if not redis.call('SET', KEYS[10], ARGV[6], 'NX') then return { 0 } end
  redis.call('RPUSH', KEYS[tonumber(ARGV[4]) + 1], ARGV[3])
  redis.call('HINCRBY', KEYS[7], 'accepted', 1)
  ring(KEYS[6], KEYS[9])
  return { 1 }
end
local answer, lists, stored, first = {}, { {}, {}, {}, {} }, 0, nil
local now
local jobs, uniques = tonumber(ARGV[2]), {}
for k = 10 + jobs, #KEYS, 2 do
  local a = 3 + jobs * 4 + (k - 10 - jobs) / 2 * 3
  uniques[tonumber(ARGV[a])] = { key = KEYS[k], job = KEYS[k + 1], holder = ARGV[a + 1], ttl = ARGV[a + 2] }
end
-- taken returns who else holds a unique key. One that its job should have given back counts only while that job has not ended.
local function taken(unique, id)
  local holder = redis.call('GET', unique.key)
  if not holder or holder == id then return nil end
  if holder == unique.holder and redis.call('GETRANGE', unique.job, 1, 1) ~= 'p' and redis.call('PTTL', unique.key) == -1 then return nil end
  return holder
end
for i = 1, jobs do
  local a, key, unique = i * 4 - 1, KEYS[9 + i], uniques[i]
  local id, priority, due, record = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  local holder = unique and taken(unique, id)
  if holder or room and room <= 0 then
    answer[#answer + 1] = redis.call('EXISTS', key) == 1 and 0 or holder or -1
  elseif not redis.call('SET', key, record, 'NX') then
    answer[#answer + 1] = 0
  else
    if unique then
      redis.call('SET', unique.key, id)
      if unique.ttl ~= '' then redis.call('PEXPIRE', unique.key, unique.ttl) end
    end
    answer[#answer + 1] = 1
    stored = stored + 1
    if room then room = room - 1 end
    if due == '' then
      local list = lists[tonumber(priority) + 1]
      list[#list + 1] = id
    else
      now = now or clock()
      local at = tonumber(string.sub(due, 2))
      if string.sub(due, 1, 1) == '+' then at = at + now end
      redis.call('ZADD', KEYS[5], whole(at), priority .. id)
      if not first or at < first then first = at end
    end
  end
end
if stored > 0 then
  local wake = false
  for p = 1, 4 do
    if #lists[p] > 0 then
      redis.call('RPUSH', KEYS[p], unpack(lists[p]))
      wake = true
    end
  end
  -- A new earliest time: somebody must wake and sleep until then instead.
  if first and not wake then
    local head = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')
    wake = tonumber(head[2]) >= first
  end
  redis.call('HINCRBY', KEYS[7], 'accepted', stored)
  if wake then ring(KEYS[6], KEYS[9]) end
end
return answer
