-- First step of a merge, on the guest's side: notes what is to move, for whom and under which id. The cart itself stays
-- as it is until the other side has its pieces, so that nothing is lost wherever this stops; whoever comes next finds
-- the note and finishes that merge.
-- KEYS[1] the guest's cart, KEYS[2] the note. ARGV: a new id, the user, seconds the note lives.
-- Reply: {} when there is nothing to move, else the note: {':id', id, ':user', user, sku, qty, …}.
if redis.call('EXISTS', KEYS[2]) == 0 then
  local lines = redis.call('HGETALL', KEYS[1])
  if #lines == 0 then return {} end
  redis.call('HSET', KEYS[2], ':id', ARGV[1], ':user', ARGV[2])
  for i = 1, #lines, 2 do redis.call('HSET', KEYS[2], lines[i], lines[i + 1]) end
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
return redis.call('HGETALL', KEYS[2])
