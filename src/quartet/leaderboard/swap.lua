-- Replaces the live boards by the rebuilt ones, atomically.
-- KEYS: the mark of a rebuild; then per board its key, its sources, and both of the new board.
-- ARGV: the value of the mark, which identifies this rebuild; then per board how many sources it was built from: after
-- a failover the new server may lack the last ones. Reply: 0 if another rebuild has begun or sources are missing, else
-- 1.
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
