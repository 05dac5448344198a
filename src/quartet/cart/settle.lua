-- Last step of a merge, on the guest's side: deletes the note, and the cart if the user's cart has its lines.
-- KEYS[1]: the guest's cart, KEYS[2]: the note, KEYS[3]: gets the user into whose cart it was merged. ARGV: the note,
-- the outcome of the merge, TTL of KEYS[3] in seconds.
-- Reply: 1 if this call ended the merge, 0 if it had ended before.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[2] == 'in' then
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[3], ARGV[1]:match('^%S+'), 'EX', ARGV[3])
end
return 1
