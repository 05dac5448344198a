-- Sets the points of some sources (orders, points given by staff) on one or several boards. The points of each source
-- are stored beside the board and can only decrease: the lowest value reported is the latest, since refunds only reduce
-- what an order is worth. So this is idempotent, and reports may come in any order. During a rebuild every report also
-- goes to the new boards.
-- KEYS: the erased users, who get no points any more; the mark of a rebuild; then per board its key, its sources, and
-- both of the new board that is being built.
-- ARGV: 'live', or 'next' for the new boards only, where the sources are counted (`seeded`); the TTL of each board in
-- seconds; then source, user, points, …
local boards = (#KEYS - 2) / 4
local building = redis.call('EXISTS', KEYS[2]) == 1
local function settle(board, sources, seconds)
  for i = boards + 2, #ARGV, 3 do
    local held = redis.call('HGET', sources, ARGV[i])
    local user, before, now = ARGV[i + 1], 0, tonumber(ARGV[i + 2])
    if held then
      before, user = string.match(held, '(%d+) (.+)')
      before = tonumber(before)
      now = math.min(before, now)
    end
    if not redis.call('ZSCORE', KEYS[1], user) and (not held or now < before) then
      redis.call('HSET', sources, ARGV[i], string.format('%d %s', now, user))
      if now ~= before and tonumber(redis.call('ZINCRBY', board, now - before, user)) <= 0 then
        redis.call('ZREM', board, user)
      end
    end
  end
  redis.call('EXPIRE', board, seconds)
  redis.call('EXPIRE', sources, seconds)
end
for b = 1, boards do
  local k = 4 * b - 1
  if ARGV[1] == 'live' then settle(KEYS[k], KEYS[k + 1], ARGV[b + 1]) end
  if building then
    if ARGV[1] == 'next' then redis.call('HINCRBY', KEYS[k + 3], 'seeded', (#ARGV - boards - 1) / 3) end
    settle(KEYS[k + 2], KEYS[k + 3], ARGV[b + 1])
  end
end
