-- Writes a product to the cache if the caller still holds the lease that it took before it read the database. A change
-- of the product deletes the lease, so that a slow reader can't write an outdated entry.
-- KEYS[1]: product:{reference}. ARGV: the lease; the entry, or "" to release the lease; the entry's TTL in seconds.
-- Reply: 1 if the lease was held.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
end
return 1
