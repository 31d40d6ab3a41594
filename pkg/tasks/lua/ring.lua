-- Wakes another runner: this one took the token, or watched the clock, and has no free slot for what comes.
-- KEYS 1-4 p0..p3, 5 sched, 6 bell, 7 timer, 8 paused
-- ARGV 1 runner
-- returns 1 if something waits
redis.call('LTRIM', KEYS[6], 0, 0) -- changes nothing; a full Redis admits it, and then what follows
local held = redis.call('GET', KEYS[7])
if held and string.match(held, '|(.*)$') == ARGV[1] then redis.call('DEL', KEYS[7]) end
local n = redis.call('ZCARD', KEYS[5])
for p = 1, 4 do n = n + redis.call('LLEN', KEYS[p]) end
if n == 0 then return 0 end
ring(KEYS[6], KEYS[8])
return 1
