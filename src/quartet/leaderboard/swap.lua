-- Puts the boards that were made anew in the place of the live ones, all at once.
-- KEYS: the mark that boards are being made anew; then for each board itself, its sources, and both in the making.
-- ARGV: what the mark must say, whose making this is; then for each board of how many sources it was made: a server that
-- took over meanwhile may never have heard of the last. Reply: 0 when it is another's by now, or less, else 1.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for k = 2, #KEYS, 4 do
  local seeded = tonumber(redis.call('HGET', KEYS[k + 3], 'seeded')) or 0
  if seeded < tonumber(ARGV[(k + 6) / 4]) then return 0 end
end
for k = 2, #KEYS, 4 do
  redis.call('HDEL', KEYS[k + 3], 'seeded')
  for i = k, k + 1 do
    if redis.call('EXISTS', KEYS[i + 2]) == 1 then
      redis.call('RENAME', KEYS[i + 2], KEYS[i])
    else
      redis.call('DEL', KEYS[i])
    end
  end
end
redis.call('DEL', KEYS[1])
return 1
