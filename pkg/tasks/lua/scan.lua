-- A page of the names of keys, from the node that has the lane.
--
-- KEYS  any of the lane   ARGV  cursor, pattern   returns the next cursor ("0": that was all), names
return redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', 1000)
