-- Stores jobs that are not there yet.
-- KEYS 1-4 p0..p3, 5 sched, 6 bell, 7 stat, 8 gone, 9.. j:<id>, one per job
-- ARGV 1 how many ids may wait (0: no limit), then four per job: id, priority, due, record
--      due: "" now, "@ms" by the clock, "+ms" from now
-- returns per job 1 stored, 0 was there already, -1 the queue is full
-- The first write is SET: on a full Redis it fails before anything was changed.
local limit = tonumber(ARGV[1])
local room
if limit > 0 then
  -- What was cancelled while it waited still lies in its list, but waits no more.
  room = limit - redis.call('ZCARD', KEYS[5]) + redis.call('SCARD', KEYS[8])
  for p = 1, 4 do room = room - redis.call('LLEN', KEYS[p]) end
end
if #KEYS == 9 and ARGV[4] == '' and not (room and room <= 0) then
  -- One job for now, the most frequent call, as below: what Lua does about many costs more than Redis' own work.
  if not redis.call('SET', KEYS[9], ARGV[5], 'NX') then return { 0 } end
  redis.call('RPUSH', KEYS[tonumber(ARGV[3]) + 1], ARGV[2])
  redis.call('HINCRBY', KEYS[7], 'accepted', 1)
  ring(KEYS[6])
  return { 1 }
end
local answer, lists, stored, first = {}, { {}, {}, {}, {} }, 0, nil
local now
for i = 9, #KEYS do
  local a = 2 + (i - 9) * 4
  local id, priority, due, record = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  if room and room <= 0 then
    answer[#answer + 1] = redis.call('EXISTS', KEYS[i]) == 1 and 0 or -1
  elseif not redis.call('SET', KEYS[i], record, 'NX') then
    answer[#answer + 1] = 0
  else
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
  if wake then ring(KEYS[6]) end
end
return answer
