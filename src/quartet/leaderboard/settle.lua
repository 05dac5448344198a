-- What some sources (orders, points given by hand) are worth, on one board or several. Of each board the worth of every
-- source is remembered beside it, and it only ever shrinks: the least that was said of a source is the latest, since
-- money is given back and never taken again. So the same thing may be said many times and in any order. While a board is
-- being made anew, what is said of the live one is said of the new one too.
-- KEYS: the mark that boards are being made anew; then for each board itself, its sources, and both in the making.
-- ARGV: 'live', or 'next' for the ones in the making alone, where it is counted how many were told so; the seconds each
-- board lives; then source, user, points, …
local boards = (#KEYS - 1) / 4
local building = redis.call('EXISTS', KEYS[1]) == 1
local function settle(board, sources, seconds)
  for i = boards + 2, #ARGV, 3 do
    local held = redis.call('HGET', sources, ARGV[i])
    local user, before, now = ARGV[i + 1], 0, tonumber(ARGV[i + 2])
    if held then
      before, user = string.match(held, '(%d+) (.+)')
      before = tonumber(before)
      now = math.min(before, now)
    end
    if not held or now < before then
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
  local k = 4 * b - 2
  if ARGV[1] == 'live' then settle(KEYS[k], KEYS[k + 1], ARGV[b + 1]) end
  if building then
    if ARGV[1] == 'next' then redis.call('HINCRBY', KEYS[k + 3], 'seeded', (#ARGV - boards - 1) / 3) end
    settle(KEYS[k + 2], KEYS[k + 3], ARGV[b + 1])
  end
end
