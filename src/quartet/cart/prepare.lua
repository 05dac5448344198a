-- First step of a merge, on the guest's side: notes for whom and under which id. While the note is there nothing gets
-- into the cart or out of it: whoever comes ends this merge before. So what is noted is what there is, and the cart may
-- stay as it is until the other side has its pieces: none is lost wherever this stops.
-- KEYS[1] the guest's cart, KEYS[2] the note. ARGV: the note ('<user> <id>'), seconds that it and the cart live.
-- Reply: {'ok', sku, qty, sku, qty, …}, {'ok'} when there is nothing to move, or {'merging', note} with nothing changed.
local note = redis.call('GET', KEYS[2])
if note then return {'merging', note} end
local reply = {'ok'}
for _, part in ipairs(redis.call('HGETALL', KEYS[1])) do reply[#reply + 1] = part end
if #reply > 1 then
  redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return reply
