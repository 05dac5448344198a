-- Reads a cart and renews its TTL.
-- KEYS[1]: the cart, KEYS[2]: the note of a merge in progress. ARGV: TTL in seconds.
-- Reply: {'ok', sku, qty, sku, qty, …}, or {'merging', note} with the TTL unchanged: a cart must not outlive that note.
local note = redis.call('GET', KEYS[2])
if note then return {'merging', note} end
redis.call('EXPIRE', KEYS[1], ARGV[1])
local reply = {'ok'}
for _, part in ipairs(redis.call('HGETALL', KEYS[1])) do reply[#reply + 1] = part end
return reply
