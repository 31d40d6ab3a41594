-- Redis' clock, of the node that has the key: TIME itself, which has none, may go to any.
--
-- KEYS  any of the lane   returns seconds, microseconds
return redis.call('TIME')
