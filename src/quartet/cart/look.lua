-- What is in a cart; looking keeps it alive.
-- KEYS[1] the cart, KEYS[2] the note of a merge. ARGV: seconds to live.
-- Reply: {'ok', sku, qty, sku, qty, …}, or {'merging', note}: a cart must not outlive the note of its merge.
local note = redis.call('GET', KEYS[2])
if note then return {'merging', note} end
redis.call('EXPIRE', KEYS[1], ARGV[1])
local reply = {'ok'}
for _, part in ipairs(redis.call('HGETALL', KEYS[1])) do reply[#reply + 1] = part end
return reply
