-- Ends the lease of a runner that is dead, before its claims are taken: from here on it cannot claim.
-- KEYS 1 hb:<runner>
-- ARGV 1 "1" if its death is proved; else only a lease that has ended counts
-- returns 1 dead, 0 its lease lives
if ARGV[1] ~= '1' and redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[1])
return 1
