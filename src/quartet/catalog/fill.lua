-- Puts a product into the cache for the reader that holds the lease, and for nobody else: whoever changed the product
-- since that reader went to the database has taken the lease away, so a slow reader can't write an old product back.
-- KEYS[1] product:{reference}. ARGV: the lease; the entry, or "" to give the lease back; the entry's life in seconds.
-- Reply: 1 when the lease was held.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
end
return 1
