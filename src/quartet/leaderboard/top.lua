-- Reads the best places, or one user's. Equal points share a rank, and the ranks after them are skipped (1, 2, 2, 4).
-- KEYS[1]: a board. ARGV: 'best' and how many, or 'of' and a user.
-- Reply: {rank, user, points, …}; empty if the board is empty or the user is not on it.
local reply = {}
if ARGV[1] == 'of' then
  local points = redis.call('ZSCORE', KEYS[1], ARGV[2])
  if points then
    reply = {1 + redis.call('ZCOUNT', KEYS[1], '(' .. points, '+inf'), ARGV[2], points}
  end
  return reply
end
local found = redis.call('ZRANGE', KEYS[1], 0, ARGV[2] - 1, 'REV', 'WITHSCORES')
local rank
for i = 1, #found, 2 do
  if found[i + 1] ~= found[i - 1] then rank = (i + 1) / 2 end
  reply[#reply + 1] = rank
  reply[#reply + 1] = found[i]
  reply[#reply + 1] = found[i + 1]
end
return reply
