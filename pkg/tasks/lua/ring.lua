-- Wakes another runner: this one took the token, or watched the clock, and has no free slot for what comes.
-- KEYS 1-4 p0..p3, 5 sched, 6 bell, 7 timer
-- ARGV 1 runner
-- returns 1 if something waits
local held = redis.call('GET', KEYS[7])
if held and string.match(held, '|(.*)$') == ARGV[1] then redis.call('DEL', KEYS[7]) end
local n = redis.call('ZCARD', KEYS[5])
for p = 1, 4 do n = n + redis.call('LLEN', KEYS[p]) end
if n == 0 then return 0 end
ring(KEYS[6])
return 1
