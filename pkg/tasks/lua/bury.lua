-- Lets dead jobs go before their time. Their ids stay taken for a while, as after any end.
-- KEYS 1 dead, 2.. j:<id>, one per id
-- ARGV 1 ttl of what is left (ms), 2.. ids
-- returns the ids of those
local buried = {}
for i = 2, #ARGV do
  -- One that was retried meanwhile is dead no more; of one whose record has gone only the id is left.
  if redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
    buried[#buried + 1] = ARGV[i]
  end
end
return buried
