-- Last step of a merge, on the guest's side: the note goes, and with it the cart if the user's side has its pieces.
-- KEYS[1] the guest's cart, KEYS[2] the note, KEYS[3] where it is noted whose it became. ARGV: the note, the fate of the
-- merge, seconds that it is known whose it became.
-- Reply: 1 when settled now, 0 when it was before.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[2] == 'in' then
  redis.call('DEL', KEYS[1])
  redis.call('SET', KEYS[3], ARGV[1]:match('^%S+'), 'EX', ARGV[3])
end
return 1
