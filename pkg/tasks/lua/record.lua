-- The places of record.go's header that scripts read or write; put before every script that needs them.
local HEADER = 84
local function state_of(h) return string.sub(h, 2, 2) end
local function priority_of(h) return string.sub(h, 3, 3) end
-- "or 0": a record that something else wrote must not stop the script.
local function crashes_of(h) return tonumber(string.sub(h, 11, 12)) or 0 end
local function name_size(h) return tonumber(string.sub(h, 69, 71)) or 0 end
local function error_at(h) return HEADER + name_size(h) + (tonumber(string.sub(h, 72, 79)) or 0) end
local function is_terminal(h) return state_of(h) ~= 'p' end
-- ended returns the header with another state and the time of the end.
local function ended(h, state, now)
  return string.sub(h, 1, 1) .. state .. string.sub(h, 3, 47) .. string.format('%013.0f', now) .. string.sub(h, 61)
end
-- tombstone returns what a cancelled job leaves: header, with no payload, and name.
local function tombstone(key, h, now)
  local t = ended(h, 'c', now)
  t = string.sub(t, 1, 71) .. '00000000' .. string.sub(t, 80)
  if name_size(h) == 0 then return t end
  return t .. redis.call('GETRANGE', key, HEADER, HEADER + name_size(h) - 1)
end
