-- Takes out of a cart what was bought, or what moved to another cart; what was put in meanwhile stays.
-- KEYS[1] the cart, KEYS[2] a mark that lives in the same slot, KEYS[3] for 'settle' where it is noted whose it became,
-- for a day: longer than an order waits for its payment. ARGV: 'once' (the mark is made; where it is already, nothing
-- happens) or 'settle' (the mark is a prepared merge; without it, or with another id, nothing happens), seconds the
-- mark lives or the merge's id, then sku, qty, sku, qty, …
-- Reply: 1 when taken now, 0 when nothing was to do.
if ARGV[1] == 'once' then
  if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[2]) then return 0 end
else
  if redis.call('HGET', KEYS[2], ':id') ~= ARGV[2] then return 0 end
  redis.call('SET', KEYS[3], redis.call('HGET', KEYS[2], ':user'), 'EX', 86400)
  redis.call('DEL', KEYS[2])
end
for i = 3, #ARGV, 2 do
  local left = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0') - tonumber(ARGV[i + 1])
  if left > 0 then
    redis.call('HSET', KEYS[1], ARGV[i], left)
  else
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return 1
