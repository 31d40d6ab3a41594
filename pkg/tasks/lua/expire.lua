-- Ends the lease of a runner that is dead, before its claims are taken: from here on it cannot claim, and not renew.
-- KEYS 1 hb:<runner>, 2 cut:<runner>
-- ARGV 1 "1" if its death is proved; else only a lease that has ended counts, 2 ttl of the mark (ms)
-- returns 1 dead, 0 its lease lives
if ARGV[1] ~= '1' and redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[1]) -- a full Redis admits it, and then what follows
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
return 1
