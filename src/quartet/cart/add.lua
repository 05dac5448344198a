-- Adds units to a line, or sets its quantity. Reading and writing are atomic: two concurrent clicks add two units.
-- KEYS[1]: the cart, KEYS[2]: the note of a merge in progress, KEYS[3]: the user into whose cart this guest's cart was
-- merged, which does not apply to lines added later, KEYS[4]: exists if the cart's user was erased. ARGV: sku, qty,
-- 'add' or 'set', limit of units per line, limit of lines, TTL in seconds, TTL of a new cart.
-- Reply: {'ok', sku, qty, sku, qty, …} with the whole cart, or {'qty', present}, {'lines', present}, {'merging', note}
-- with nothing changed.
local note = redis.call('GET', KEYS[2])
if note then return {'merging', note} end
if redis.call('EXISTS', KEYS[4]) == 1 then return {'ok'} end
local sku, qty = ARGV[1], tonumber(ARGV[2])
local present = tonumber(redis.call('HGET', KEYS[1], sku) or '0')
local lines = redis.call('HLEN', KEYS[1])
local wanted = qty
if ARGV[3] == 'add' then wanted = present + qty end
if wanted > tonumber(ARGV[4]) then return {'qty', tostring(present)} end
if wanted > 0 and present == 0 and lines >= tonumber(ARGV[5]) then return {'lines', tostring(lines)} end
if wanted > 0 then
  redis.call('HSET', KEYS[1], sku, wanted)
  redis.call('DEL', KEYS[3])
else
  redis.call('HDEL', KEYS[1], sku)
end
redis.call('EXPIRE', KEYS[1], lines == 0 and ARGV[7] or ARGV[6])
local reply = {'ok'}
for _, part in ipairs(redis.call('HGETALL', KEYS[1])) do reply[#reply + 1] = part end
return reply
