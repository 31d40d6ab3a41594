-- The bell holds no token or one. Nobody takes it but a runner that sleeps on it.
local function ring(bell)
  if redis.call('LLEN', bell) == 0 then redis.call('RPUSH', bell, '1') end
end
