-- The bell holds no token or one. Nobody takes it but a runner that sleeps on it. That of a paused queue does not ring, so that nobody
-- wakes for nothing: resume.lua makes up for it. One command for both questions.
local function ring(bell, paused)
  if redis.call('EXISTS', bell, paused) == 0 then redis.call('RPUSH', bell, '1') end
end
