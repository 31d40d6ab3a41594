-- Makes a runner's lease, once: its name was never used before and is never used again.
-- KEYS 1 hb:<runner>, 2 wk
-- ARGV 1 runner, 2 lease ms, 3 what it tells of itself (runners.go)
-- returns 1, or 0 if the name is taken
-- The first write is one that a full Redis admits: runners must be able to start there, they are what empties it.
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[2], 0, ARGV[1]) -- one score for all: the order of the names is the ring in which they watch each other
if redis.call('SET', KEYS[1], ARGV[3], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
