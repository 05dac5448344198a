-- First step of a merge, on the guest's side: writes a note with the user and the merge's id. While it exists the cart
-- can't be changed: every other operation ends the merge first. So the lines returned here stay the cart's, and it is
-- kept until the user's cart has them: nothing is lost wherever the merge is interrupted.
-- KEYS[1]: the guest's cart, KEYS[2]: the note. ARGV: the note ('<user> <id>'), TTL of the note and the cart in
-- seconds.
-- Reply: {'ok', sku, qty, sku, qty, …}, {'ok'} for an empty cart, or {'merging', note} with nothing changed.
local note = redis.call('GET', KEYS[2])
if note then return {'merging', note} end
local reply = {'ok'}
for _, part in ipairs(redis.call('HGETALL', KEYS[1])) do reply[#reply + 1] = part end
if #reply > 1 then
  redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return reply
