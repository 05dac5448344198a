-- Replaces a product's cache entry by one of a newer version; its TTL stays. A lease, or an entry of another product,
-- is deleted, as in drop.lua. If nothing is cached, nothing is written, since the product may not be requested any
-- more.
-- KEYS[1]: product:{reference}. ARGV: the product's id and version, the new entry. Reply: 1 if something was changed.
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
