-- Second step of a merge, on the user's side: puts the guest's pieces in, once for each id. Sums stop at the most a line
-- may have; the limit of lines is not asked, since a merge must not drop any.
-- KEYS[1] the user's cart, KEYS[2] the mark of this merge. ARGV: seconds the mark lives, most pieces a line, seconds the
-- cart lives, then sku, qty, sku, qty, …
-- Reply: 1 when put in now, 0 when it was before.
if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[1]) then return 0 end
for i = 4, #ARGV, 2 do
  local sum = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0') + tonumber(ARGV[i + 1])
  redis.call('HSET', KEYS[1], ARGV[i], math.min(sum, tonumber(ARGV[2])))
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
