-- Second step of a merge, on the user's side: adds the guest's lines, unless the merge was cancelled before. Sums are
-- cut to the limit of units per line; the limit of lines is not applied, since a merge must not drop any.
-- KEYS[1]: the user's cart, KEYS[2]: the outcome of this merge, KEYS[3]: exists if the user was erased. ARGV: TTL of
-- the outcome in seconds, limit of lines up to which a cart accepts a merge, limit of units per line, TTL of the cart,
-- then sku, qty, sku, qty, …
-- Reply: the outcome: 'in'; or, with nothing changed, 'off' (cancelled), 'gone', 'full'.
local fate = redis.call('GET', KEYS[2])
if fate then return fate end
if redis.call('EXISTS', KEYS[3]) == 1 then return 'gone' end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[2]) then return 'full' end
redis.call('SET', KEYS[2], 'in', 'EX', ARGV[1])
for i = 5, #ARGV, 2 do
  local sum = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0') + tonumber(ARGV[i + 1])
  redis.call('HSET', KEYS[1], ARGV[i], math.min(sum, tonumber(ARGV[3])))
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 'in'
