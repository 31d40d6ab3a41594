-- Gives back unique keys that are still those of the jobs: these are about to begin.
-- KEYS u:<unique>, one per job
-- ARGV ids
-- returns 1
for i, key in ipairs(KEYS) do release(key, ARGV[i]) end
return 1
