-- Puts a product's newer page in the place of its older one, which keeps its time to live; any lease and the entry of
-- another product go, as in drop.lua; where nothing is kept nothing is put, since nobody may look for it any more.
-- KEYS[1] product:{reference}. ARGV: the product's id and version, the new entry. Reply: 1 when something was changed.
local head = redis.call('GETRANGE', KEYS[1], 0, 99)
if head == '' then return 0 end
local id, version = string.match(head, '^([^ ]+) (%d+) ')
if id ~= ARGV[1] then
  redis.call('DEL', KEYS[1])
elseif tonumber(version) >= tonumber(ARGV[2]) then
  return 0
else
  redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL')
end
return 1
