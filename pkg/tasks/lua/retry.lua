-- Makes a dead job pending again, as if it had never begun. The error of its last attempt stays readable.
-- KEYS 1-4 p0..p3, 5 bell, 6 dead, 7 stat, 8 paused, 9 j:<id>, 10 u:<its unique key>, if it has one
-- ARGV 1 id
-- returns 1, 0 if it is not dead, -1 if there is no record, 2 if another job has its unique key
local h = redis.call('GETRANGE', KEYS[9], 0, HEADER - 1)
if h == '' then return -1 end
if state_of(h) ~= 'x' then return 0 end
if KEYS[10] and redis.call('EXISTS', KEYS[10]) == 1 then return 2 end
redis.call('ZREM', KEYS[6], ARGV[1]) -- a full Redis admits it, and then what follows
if KEYS[10] then redis.call('SET', KEYS[10], ARGV[1]) end
redis.call('PERSIST', KEYS[9])
redis.call('SETRANGE', KEYS[9], 0, anew(h))
redis.call('RPUSH', KEYS[tonumber(priority_of(h)) + 1], ARGV[1])
redis.call('HINCRBY', KEYS[7], 'revived', 1)
ring(KEYS[5], KEYS[8])
return 1
