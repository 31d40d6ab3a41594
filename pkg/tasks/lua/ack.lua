-- Ends claims. Only who still owns a claim may: the owner value names the runner and the claim.
-- KEYS 1-4 p0..p3, 5 act, 6 sched, 7 bell, 8 dead, 9 stat, 10.. j:<id>, one per job
-- ARGV 1 jobs, then per job: op, id, owner ("runner|seq|"), ttl of what a cancelled job leaves (ms), and by op
--      d done:      record, ttl ms
--      r retry:     header, delay ms, error
--      a again:     header, delay ms, error   postponed: the attempt does not count
--      x dead:      header, ttl ms, error
--      q requeue:   -                      to the front, the attempt does not count
--      c cancelled: -
--      n dropped:   -                      was cancelled while it waited, or its record is gone
-- returns per job 1 as asked, 2 ended as cancelled instead, 0 not the owner: nothing changed
-- It begins with HDEL, which a full Redis admits, so all of it passes.
local size = { d = 2, r = 3, a = 3, x = 3, q = 0, c = 0, n = 0 }
local jobs, at = {}, 2
for i = 1, tonumber(ARGV[1]) do
  jobs[i] = { op = ARGV[at], id = ARGV[at + 1], owner = ARGV[at + 2], ttl = ARGV[at + 3], at = at + 4, key = KEYS[9 + i] }
  at = at + 4 + size[ARGV[at]]
end
local ids = {}
for i, job in ipairs(jobs) do ids[i] = job.id end
local values = redis.call('HMGET', KEYS[5], unpack(ids))
local mine, answer = {}, {}
for i, job in ipairs(jobs) do
  local v = values[i]
  if v and string.sub(v, 1, #job.owner) == job.owner then
    mine[#mine + 1] = job.id
    job.priority, job.cancel = string.match(string.sub(v, #job.owner + 1), '^(%d)|%d+(.*)$')
    answer[i] = 1
  else
    answer[i] = 0
  end
end
if #mine == 0 then return answer end
redis.call('HDEL', KEYS[5], unpack(mine))

local now, wake = clock(), false
local count = {}
local function add(what) count[what] = (count[what] or 0) + 1 end
for i, job in ipairs(jobs) do
  if answer[i] == 1 then
    local op, key, a = job.op, job.key, job.at
    if job.cancel == '|X' and (op == 'r' or op == 'a' or op == 'x' or op == 'q') then
      op = 'c'
      answer[i] = 2
    end
    if op == 'd' then
      redis.call('SET', key, ARGV[a], 'PX', ARGV[a + 1])
      add('done')
    elseif op == 'n' then
      if redis.call('PEXPIRE', key, job.ttl) == 0 then add('lost') end
    else
      local h = redis.call('GETRANGE', key, 0, HEADER - 1)
      if h == '' then
        add('lost')
      elseif op == 'q' and state_of(h) == 'c' then
        -- It was cancelled while it waited, and given back unread.
        redis.call('PEXPIRE', key, job.ttl)
      elseif op == 'c' then
        redis.call('SET', key, tombstone(key, h, now), 'PX', job.ttl)
        add('cancelled')
      elseif op == 'q' then
        redis.call('LPUSH', KEYS[tonumber(job.priority) + 1], job.id)
        wake = true
      else
        redis.call('SETRANGE', key, 0, ARGV[a])
        redis.call('SETRANGE', key, error_at(ARGV[a]), ARGV[a + 2])
        if op == 'r' or op == 'a' then
          local due = now + tonumber(ARGV[a + 1])
          redis.call('ZADD', KEYS[6], whole(due), job.priority .. job.id)
          add(op == 'r' and 'retried' or 'postponed')
          if tonumber(redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')[2]) >= due then wake = true end
        else
          redis.call('PEXPIRE', key, ARGV[a + 1])
          redis.call('ZREMRANGEBYSCORE', KEYS[8], '-inf', whole(now - tonumber(ARGV[a + 1])))
          redis.call('ZADD', KEYS[8], whole(now), job.id)
          redis.call('PEXPIRE', KEYS[8], ARGV[a + 1])
          add('dead')
        end
      end
    end
  end
end
for what, n in pairs(count) do redis.call('HINCRBY', KEYS[9], what, n) end
if wake then ring(KEYS[7]) end
return answer
