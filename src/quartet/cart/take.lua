-- Removes bought units from a cart, once per event; units added meanwhile stay. If a guest's cart was merged into a
-- user's, they have to be removed there. The mark records which cart it was, so that a redelivered event goes to the
-- same one, whatever the guest has added since.
-- KEYS[1]: the cart, KEYS[2]: the note of a merge in progress, KEYS[3]: the user into whose cart it was merged,
-- KEYS[4]: the mark of this event. ARGV: TTL of the mark in seconds, then sku, qty, sku, qty, …
-- Reply: {'taken'}, {'before'}, {'moved', user}, or {'merging', note} with nothing changed.
local mark = redis.call('GET', KEYS[4])
if mark then return mark == '1' and {'before'} or {'moved', mark} end
local note = redis.call('GET', KEYS[2])
if note then return {'merging', note} end
local user = redis.call('GET', KEYS[3])
redis.call('SET', KEYS[4], user or '1', 'EX', ARGV[1])
if user then return {'moved', user} end
for i = 2, #ARGV, 2 do
  local left = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0') - tonumber(ARGV[i + 1])
  if left > 0 then
    redis.call('HSET', KEYS[1], ARGV[i], left)
  else
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return {'taken'}
