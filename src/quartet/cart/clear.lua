-- Empties a cart.
-- KEYS[1]: the cart, KEYS[2]: the note of a merge in progress. Reply: {'ok'}, or {'merging', note} with nothing
-- changed.
local note = redis.call('GET', KEYS[2])
if note then return {'merging', note} end
redis.call('DEL', KEYS[1])
return {'ok'}
