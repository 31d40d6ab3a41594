-- Ends a runner's own waiting for the bell.
-- KEYS 1 wake:<runner>
-- returns 1
-- One step: a runner that is killed after it leaves no key without a TTL. DEL, which a full Redis admits, comes first.
redis.call('DEL', KEYS[1])
redis.call('RPUSH', KEYS[1], '1')
return redis.call('PEXPIRE', KEYS[1], 60000)
