-- A runner goes and says so.
-- KEYS 1-4 p0..p3, 5 sched, 6 bell, 7 timer, 8 hb:<runner>, 9 ctl:<runner>, 10 wake:<runner>, 11 wk, 12 paused
-- ARGV 1 runner, 2 "1" if nothing in act is its own: else its name stays for the others to reap
-- returns 1
redis.call('DEL', KEYS[8], KEYS[9], KEYS[10])
if ARGV[2] == '1' then redis.call('ZREM', KEYS[11], ARGV[1]) end
local held = redis.call('GET', KEYS[7])
if held and string.match(held, '|(.*)$') == ARGV[1] then redis.call('DEL', KEYS[7]) end
-- It may have taken the bell's token to its grave, and it may have watched the clock: wake another.
local n = redis.call('ZCARD', KEYS[5])
for p = 1, 4 do n = n + redis.call('LLEN', KEYS[p]) end
if n > 0 then ring(KEYS[6], KEYS[12]) end
return 1
