-- The places of record.go's header that scripts read or write; put before every script that needs them.
local HEADER = 116
local STARTED = 34 -- offset, 13 digits
local function started_at(ms) return string.format('%013.0f', tonumber(ms)) end
local function state_of(h) return string.sub(h, 2, 2) end
local function priority_of(h) return string.sub(h, 3, 3) end
-- "or 0": a record that something else wrote must not stop the script.
local function crashes_of(h) return tonumber(string.sub(h, 11, 12)) or 0 end
local function name_size(h) return tonumber(string.sub(h, 69, 71)) or 0 end
local function name_of(h) return string.sub(h, HEADER + 1, HEADER + name_size(h)) end -- h with what follows it
local function extra_size(h) return tonumber(string.sub(h, 110, 115)) or 0 end
local function error_at(h) return HEADER + name_size(h) + extra_size(h) + (tonumber(string.sub(h, 72, 79)) or 0) end
local function is_terminal(h) return state_of(h) ~= 'p' end
-- has_begun reports whether the job's handler has begun, as record.go's begun does: attempts, crashes, start.
local function has_begun(h)
  return string.find(string.sub(h, 5, 7) .. string.sub(h, 11, 12) .. string.sub(h, STARTED + 1, STARTED + 13), '[1-9]')
end
local function holds_unique(h) return string.sub(h, 116, 116) == 'u' end
-- release gives back a unique key that is still this job's.
local function release(unique, id)
  if redis.call('GET', unique) == id then redis.call('DEL', unique) end
end
-- ended returns the header with another state and the time of the end.
local function ended(h, state, now)
  return string.sub(h, 1, 1) .. state .. string.sub(h, 3, 47) .. string.format('%013.0f', now) .. string.sub(h, 61)
end
-- begun returns the header with one attempt more, which began at that time.
local function begun(h, at)
  local attempt = math.min((tonumber(string.sub(h, 5, 7)) or 0) + 1, 999)
  return string.sub(h, 1, 4) .. string.format('%03d', attempt) .. string.sub(h, 8, STARTED) .. started_at(at) .. string.sub(h, 48)
end
-- anew returns the header of a job that has not begun yet, with all the time it wants.
local function anew(h)
  return string.sub(h, 1, 1) .. 'p' .. string.sub(h, 3, 4) .. '000' .. string.sub(h, 8, 10) .. '00' .. string.sub(h, 13, 34) .. string.rep('0', 26) ..
    string.sub(h, 61, 79) .. string.rep('0', 30) .. string.sub(h, 110)
end
-- tombstone returns what a job leaves that was cancelled (c) or has expired (e): header, without extra and payload, and name.
local function tombstone(key, h, state, now)
  local t = ended(h, state, now)
  t = string.sub(t, 1, 71) .. '00000000' .. string.sub(t, 80, 109) .. '000000 '
  if name_size(h) == 0 then return t end
  return t .. redis.call('GETRANGE', key, HEADER, HEADER + name_size(h) - 1)
end
