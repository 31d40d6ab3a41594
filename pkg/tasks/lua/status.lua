-- Reads all that is known of a job in one moment.
-- KEYS 1 j:<id>, 2 act, 3 sched, 4 prog:<id>
-- ARGV 1 id
-- returns {} unknown, or {header and name, act value, due, progress, error}; "" for what is not there
local h = redis.call('GETRANGE', KEYS[1], 0, HEADER - 1)
if h == '' then return {} end
local head = redis.call('GETRANGE', KEYS[1], 0, HEADER + name_size(h) - 1)
local err = ''
if state_of(h) == 'p' or state_of(h) == 'x' then err = redis.call('GETRANGE', KEYS[1], error_at(h), -1) end
return {
  head,
  redis.call('HGET', KEYS[2], ARGV[1]) or '',
  redis.call('ZSCORE', KEYS[3], priority_of(h) .. ARGV[1]) or '',
  redis.call('GET', KEYS[4]) or '',
  err,
}
