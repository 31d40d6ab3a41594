-- renewed reports whether a runner's lease lives from now on. One that has ended by the clock is made again as long as nobody has
-- begun to reap this runner: while Redis is away nobody renews, but nobody reaps either.
-- PEXPIRE, which a full Redis admits, comes first.
local function renewed(hb, cut, wk, runner, ms)
  if redis.call('PEXPIRE', hb, ms) == 1 then return true end
  if redis.call('EXISTS', cut) == 1 or not redis.call('ZSCORE', wk, runner) then return false end
  redis.call('SET', hb, '1', 'PX', ms)
  return true
end
