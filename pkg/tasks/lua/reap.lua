-- Takes claims from a dead runner (expire.lua came first). Whatever it no longer owns stays as it is.
-- KEYS 1-4 p0..p3, 5 act, 6 bell, 7 dead, 8 stat, 9 paused, 10 recent of c, 11.. j:<id>, one per id, then the unique keys of
--      some of them
-- ARGV 1 runner, 2 crashes allowed, 3 ttl of a dead job (ms), 4 ttl of a tombstone (ms), 5 how many
--      ids, 6.. ids, then for each unique key the number of its job
-- returns {to the front, dead, cancelled}
local owner, now = ARGV[1] .. '|', clock()
local back, dead, cancelled, lost = 0, 0, 0, 0
local n, over = tonumber(ARGV[5]), {}
for i = 1, n do
  local id, key = ARGV[5 + i], KEYS[10 + i]
  local v = redis.call('HGET', KEYS[5], id)
  if v and string.sub(v, 1, #owner) == owner then
    redis.call('HDEL', KEYS[5], id)
    local h = redis.call('GETRANGE', key, 0, HEADER - 1)
    over[i] = true
    if h == '' then
      lost = lost + 1
    elseif is_terminal(h) then
      -- It was cancelled while it waited; the runner died before it could drop it.
      redis.call('PEXPIRE', key, ARGV[4])
    elseif string.sub(v, -2) == '|X' then
      -- It had begun: the mark is only set on what runs.
      local left = tombstone(key, begun(h, string.match(v, '|(%d+)|X$')), 'c', now)
      redis.call('SET', key, left, 'PX', ARGV[4])
      remember(KEYS[10], { remembered(now, id, name_of(left)) })
      cancelled = cancelled + 1
    else
      local crashes = crashes_of(h) + 1
      h = string.sub(h, 1, 10) .. string.format('%02d', math.min(crashes, 99)) .. string.sub(h, 13)
      if crashes > tonumber(ARGV[2]) then
        local text = 'poison: ' .. crashes .. ' runners died with it'
        redis.call('SETRANGE', key, 0, ended(h, 'x', now))
        redis.call('SETRANGE', key, error_at(h), string.format('%04d', #text) .. text)
        redis.call('PEXPIRE', key, ARGV[3])
        redis.call('ZADD', KEYS[7], whole(now), id)
        redis.call('PEXPIRE', KEYS[7], ARGV[3])
        dead = dead + 1
      else
        redis.call('SETRANGE', key, 0, h)
        redis.call('LPUSH', KEYS[tonumber(priority_of(h)) + 1], id)
        back = back + 1
        over[i] = false
      end
    end
  end
end
for k = 11 + n, #KEYS do
  local i = tonumber(ARGV[k - 5])
  if over[i] then release(KEYS[k], ARGV[5 + i]) end
end
if dead > 0 then redis.call('HINCRBY', KEYS[8], 'dead', dead) end
if cancelled > 0 then redis.call('HINCRBY', KEYS[8], 'cancelled', cancelled) end
if lost > 0 then redis.call('HINCRBY', KEYS[8], 'lost', lost) end
if back > 0 then
  redis.call('HINCRBY', KEYS[8], 'crashed', back)
  ring(KEYS[6], KEYS[9])
end
return { back, dead, cancelled }
