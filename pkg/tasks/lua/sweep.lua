-- Takes cancelled jobs out of the front of a pending list, as a claim would.
-- KEYS 1 p<n>, 2 gone, 3.. j:<id>, one per id
-- ARGV 1 ttl of a tombstone (ms), 2.. ids
-- returns how many
local key_of = {}
for i = 2, #ARGV do key_of[ARGV[i]] = KEYS[i + 1] end
local n, others = 0, {}
for _, id in ipairs(redis.call('LPOP', KEYS[1], #ARGV - 1) or {}) do
  if key_of[id] and redis.call('SREM', KEYS[2], id) == 1 then
    redis.call('PEXPIRE', key_of[id], ARGV[1])
    n = n + 1
  else
    table.insert(others, 1, id)
  end
end
if #others > 0 then redis.call('LPUSH', KEYS[1], unpack(others)) end
return n
