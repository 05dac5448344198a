-- Second step of a merge, on the user's side: puts the guest's pieces in, unless it was called off before. Sums stop at
-- the most a line may have; the limit of lines is not asked, since a merge must not drop any.
-- KEYS[1] the user's cart, KEYS[2] the fate of this merge, KEYS[3] there once the user is gone. ARGV: seconds the fate
-- is remembered, most lines of a cart that still takes in another, most pieces a line, seconds the cart lives, then
-- sku, qty, sku, qty, …
-- Reply: the fate: 'in'; or 'off', 'gone', 'full' with nothing changed.
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
