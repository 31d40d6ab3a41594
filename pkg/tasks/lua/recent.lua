-- What ended lately, for people: a list for each final state but dead, which has its own. An entry is the time, the id and the name.
local RECENT = 1000
local function remembrance(now) return string.format('%013.0f', now) end
local function remembered(now, id, name) return remembrance(now) .. id .. '|' .. name end
local function remember(list, entries)
  -- Cut now and then: it need not be exact.
  if redis.call('LPUSH', list, unpack(entries)) >= RECENT + 64 then redis.call('LTRIM', list, 0, RECENT - 1) end
end
