-- Ends the pause of a queue, and rings for what came meanwhile.
-- KEYS 1 paused, 2 bell
-- returns 1, or 0 if it was not paused
if redis.call('DEL', KEYS[1]) == 0 then return 0 end
ring(KEYS[2], KEYS[1])
return 1
