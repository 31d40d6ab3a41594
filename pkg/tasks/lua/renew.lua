-- Renews a runner's lease, also one that has ended, unless a reaper came.
-- KEYS 1 hb:<runner>, 2 cut:<runner>, 3 wk
-- ARGV 1 runner, 2 lease ms
-- returns 1, or 0 if the lease is lost
return renewed(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]) and 1 or 0
