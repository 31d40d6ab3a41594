-- Pauses a queue: from the next claim on nothing is claimed, and nothing that is due becomes pending. What runs goes on.
-- KEYS 1 paused, 2 bell
-- returns 1, or 0 if it was paused already
-- The first write is one that a full Redis admits: then it helps to pause.
redis.call('DEL', KEYS[2]) -- a token would wake somebody for nothing
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SET', KEYS[1], whole(clock()))
return 1
